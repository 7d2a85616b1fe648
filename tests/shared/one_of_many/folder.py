"""Folders in which runs are started cold: `python -m bigrun` imports plugins from there."""

from __future__ import annotations

import shutil
from pathlib import Path

PACKAGE = Path(__file__).parent


def put_into(folder: Path) -> None:
    """A copy of these plugins, and of what they take from `harm.py`."""
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PACKAGE.with_name("harm.py"), folder)
