"""A run that is refused leaves nothing behind: the directory that was made for it goes again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bigrun.checkpoint.layout import CHECKPOINTS, CONFIG, PROVENANCE
from bigrun.errors import BigrunError, ExitCode
from bigrun.lock import LOCK

if TYPE_CHECKING:
    from bigrun.lock import RunLock
    from bigrun.process import Process

__all__ = ["nothing_left_of_a_refused_run"]


@contextlib.contextmanager
def nothing_left_of_a_refused_run(process: Process, lock: RunLock) -> Iterator[None]:
    """Take away what this process has made (`process.made`) when it ends with exit code 2 before the run has begun."""
    try:
        yield
    except BigrunError as error:
        if process.made and error.exit_code == ExitCode.USAGE:
            with contextlib.suppress(OSError):  # what cannot be removed, or is not empty, stays
                unmake(process.made, lock)
        raise


def unmake(made: list[Path], lock: RunLock) -> None:
    """Remove directories that were empty when they were made, the last one with what the engine writes at every start.
    Where anything else is in it, as the log of a plugin or a checkpoint, all of it stays.

    Raises: OSError.
    """
    from bigrun.branch import BRANCH
    from bigrun.data.split.apply import SPLIT

    directory = lock.path.parent
    if directory == made[-1] and lock.is_held:
        with contextlib.suppress(OSError):
            (directory / CHECKPOINTS).rmdir()
        there = {path.name for path in directory.iterdir()}
        if there <= {LOCK, CONFIG, f"{PROVENANCE}.json", SPLIT, BRANCH}:
            for name in there - {LOCK}:
                (directory / name).unlink()
            lock.release()
    for path in reversed(made):
        path.rmdir()
