"""A disk that refuses large files on one process of several, for a while; `--plugin small_files:SmallFiles`."""

from __future__ import annotations

import resource
from typing import Any

from bigrun import hookimpl

SMALL = 4096


class SmallFiles:
    """From step 2 on, until the save of step 3 is over."""

    observer = True

    @hookimpl
    def before_update(self, run: Any, step: int) -> None:
        if run.strategy.rank == 1 and step in (2, 4):
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL if step == 2 else hard, hard))
