"""Which process it happens to."""

from __future__ import annotations

import os
from typing import Any


def is_other(run: Any) -> bool:
    """The last one, unless it is the main one."""
    return bool(run.peers.rank == run.peers.size - 1 > 0)


def is_named(run: Any, variable: str) -> bool:
    """One of those whose ranks the environment variable has."""
    return str(run.peers.rank) in os.environ[variable].split()
