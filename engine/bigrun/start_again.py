"""A run that goes on in a new process, in the place of this one: same number, same terminal, same parent."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import attrs

if TYPE_CHECKING:
    import click

    from bigrun.run import Run

__all__ = ["Continuation", "start_again"]


@attrs.frozen
class Continuation:
    """What of the command line is another one in the process that goes on."""

    directory: Path
    max_hours: float | None
    """What is left of them."""
    is_saved: bool
    """Whether this process has saved a checkpoint: it does not know dropped plugins any more."""

    @classmethod
    def of(cls, run: Run) -> Continuation:
        """Of a run that is to go on."""
        import time

        hours = run.config.run.max_hours
        left = None if hours is None else hours - (time.monotonic() - run.process.began) / 3600
        return cls(run.directory.absolute(), left, run.saver.times is not None)


def start_again(context: click.Context, continuation: Continuation) -> NoReturn:
    """Become the process that continues.

    Args:
        context: of the command as it was given.
    """
    from bigrun.supervisor.command import words_of

    replaced = {"fresh": False, "run_dir": continuation.directory, "max_hours": continuation.max_hours}
    if continuation.is_saved:
        replaced["drop_plugins"] = ()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    program = context.obj["supervisor"].program if context.obj else ["-P", "-m", "bigrun"]
    os.execv(sys.executable, [sys.executable, *program, *words_of(context, **replaced)])
