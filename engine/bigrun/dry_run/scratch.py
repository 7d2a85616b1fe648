"""The scratch directory of a dry run: beside the run directory, and gone afterwards, whatever happens. Torch-free."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from bigrun.errors import UsageError
from bigrun.lock import LOCK, RunLock, holder

__all__ = ["scratch_directory"]

PREFIX = ".dry-run-"


@contextlib.contextmanager
def scratch_directory(parent: Path, name: str, say: Callable[[str], None]) -> Iterator[Path]:
    """A new directory in `parent`, on whose disk the run is to be; folders above it that had to be made go as well.

    What a dry run has left there that was killed is removed first: one whose lock nobody holds.

    Args:
        say: told of such.

    Raises:
        UsageError: it cannot be made.
    """
    directory = parent / f"{PREFIX}{name}-{os.getpid()}"
    made = [folder for folder in (parent.absolute(), *parent.absolute().parents) if not folder.exists()]
    lock = RunLock(directory)
    try:
        sweep(parent, say)
        directory.mkdir(parents=True)
        lock.acquire()
        yield directory
    except OSError as error:
        raise UsageError(f"{directory}: cannot be used for a dry run ({error.strerror}): see --scratch") from error
    finally:
        lock.release()
        shutil.rmtree(directory, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def sweep(parent: Path, say: Callable[[str], None]) -> None:
    """Remove what killed dry runs have left."""
    for left in sorted(parent.glob(f"{PREFIX}*-*")):
        if left.is_symlink() or not (left / LOCK).is_file() or holder(left) is not None:
            continue
        shutil.rmtree(left, ignore_errors=True)
        say(f"removed      {left}, which a killed dry run has left")
