"""What it means when the operating system refuses to let something be read or written, and what to do. Torch-free."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from bigrun.errors import UsageError

__all__ = ["reading", "unreadable", "why_unreadable", "why_unwritten"]

TO_READ = {
    errno.EACCES: "make it readable for the user of this command",
    errno.EPERM: "make it readable for the user of this command",
    errno.EIO: "its disk fails, or its connection to it does",
    errno.ESTALE: "mount its file system again",
}
TO_WRITE = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room within the quota of this user",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EACCES: "let the user of this command write there",
    errno.EPERM: "let the user of this command write there",
    errno.EROFS: "its file system is mounted read-only",
}


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """While this lasts, what cannot be read ends the command with one message.

    Raises:
        UsageError: naming the folder or the file that refuses, or `path` where the system does not name it.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(unreadable(path, error)) from None


def unreadable(path: Path, error: OSError) -> str:
    """`runs/x/checkpoints: cannot be read (Permission denied): make it readable ...`"""
    refused = Path(error.filename) if isinstance(error.filename, str) else path
    return f"{first_closed(refused)}: {why_unreadable(error)}"


def why_unreadable(error: OSError) -> str:
    """`cannot be read (Permission denied): make it readable ...`"""
    return f"cannot be read ({error.strerror or error}){advice(TO_READ, error)}"


def why_unwritten(error: OSError) -> str:
    """`cannot be written (No space left on device): make room on its disk`"""
    return f"cannot be written ({error.strerror or error}){advice(TO_WRITE, error)}"


def advice(known: dict[int, str], error: OSError) -> str:
    return f": {known[error.errno]}" if error.errno in known else ""


def first_closed(path: Path) -> Path:
    """The first of the folders on the way that may not be entered, which is what refuses; else the path itself."""
    for folder in reversed(path.parents):
        try:
            os.stat(f"{folder}/.")  # noqa: PTH116 - pathlib drops the dot: whether it may be entered
        except PermissionError:
            return folder
        except OSError:
            break
    return path
