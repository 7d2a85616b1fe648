"""A run that waits in its third step until a page of it was drawn."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from bigrun import hookimpl
from bigrun.run import Run

__all__ = ["WaitsForPage"]

SECONDS = 30.0


class WaitsForPage:
    """Gives a run and its page to whoever looks; not a page that does not come in 30 seconds."""

    observer = True

    def __init__(self, look: Callable[[Run, Path], None]) -> None:
        self.look = look

    @hookimpl
    def before_step(self, run: Run, step: int) -> None:
        path = run.directory / "report" / "index.html"
        until = time.monotonic() + SECONDS
        while step == 3 and not path.exists() and time.monotonic() < until:
            time.sleep(0.05)
        if step == 3 and path.exists():
            self.look(run, path)
