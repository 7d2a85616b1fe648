"""How far a command is: a bar on a terminal, nothing anywhere else."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

__all__ = ["Advance", "Watch", "progress", "quiet"]

Advance = Callable[[int], None]
"""Is told how many more are done."""
Watch = Callable[[str, int], contextlib.AbstractContextManager[Advance]]
"""`progress` or `quiet`."""


@contextlib.contextmanager
def progress(what: str, total: int | None) -> Iterator[Advance]:
    """A bar on stderr while the context lasts; yields a function that is told how many more are done.

    Args:
        what: one word or two, left of the bar.
        total: how many there are; None where nobody knows.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), expand=True, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


@contextlib.contextmanager
def quiet(what: str, total: int | None) -> Iterator[Advance]:
    """Shows nothing."""
    yield lambda done: None
