"""The scratch directory of a dry run: beside the run directory, and gone afterwards, whatever happens. Torch-free."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
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
    made = [folder for folder in (parent.absolute(), *parent.absolute().parents) if not folder.exists()]
    with contextlib.ExitStack() as stack:
        for folder in reversed(made):
            stack.callback(remove_empty, folder)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            sweep(parent, say)
            directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-", dir=parent))
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            lock = RunLock(directory)
            lock.acquire()
            stack.callback(lock.release)
            yield directory
        except OSError as error:
            raise UsageError(f"{parent}: cannot be used for a dry run ({error.strerror}): see --scratch") from error


def remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def sweep(parent: Path, say: Callable[[str], None]) -> None:
    """Remove what killed dry runs have left. Another one takes its lock before it writes its name into the file: one
    that is empty may be about to be held."""
    for left in sorted(parent.glob(f"{PREFIX}*-*")):
        lock = left / LOCK
        if left.is_symlink() or not lock.is_file() or lock.stat().st_size == 0 or holder(left) is not None:
            continue
        shutil.rmtree(left, ignore_errors=True)
        say(f"removed      {left}, which a killed dry run has left")
