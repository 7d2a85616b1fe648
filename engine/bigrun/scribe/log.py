"""What a library has printed: a file of bounded size, for this user alone, and without secrets once that is over."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bigrun.directory import replace_file

if TYPE_CHECKING:
    from bigrun.redaction import Redactor

__all__ = ["KEPT_BYTES", "LOG", "last_line", "open_log", "redact_log", "shorten_log"]

LOG = "log.txt"
"""In the scribe's folder."""
KEPT_BYTES = 2**20
LINE_LENGTH = 1000
SAFE = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""No link is followed, and no pipe waited for."""


def open_log(path: Path) -> int:
    """A descriptor to write at its end, whatever becomes of its length meanwhile. Raises: OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | SAFE, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def last_line(path: Path) -> str:
    lines = list[str]()
    with contextlib.suppress(OSError):
        lines = tail(path, KEPT_BYTES).decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:LINE_LENGTH] if lines else "nothing"


def shorten_log(path: Path) -> None:
    """Of one that has got twice as long as it may be the end is kept; its writer goes on with the same file."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | SAFE)
        with os.fdopen(descriptor, "r+b", buffering=0) as file:
            if os.fstat(descriptor).st_size > 2 * KEPT_BYTES:
                kept = tail(path, KEPT_BYTES)
                file.truncate(0)
                file.write(kept)


def redact_log(path: Path, redactor: Redactor) -> None:
    """Take secrets out of it, as a URL with a password; of a long one the end is kept.

    Raises:
        OSError: it cannot be read; ELOOP where it is a link.
        RunDirectoryError: it cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        replace_file(path, redactor.text(tail(path, KEPT_BYTES).decode(errors="replace")).encode())
        path.chmod(0o600)


def tail(path: Path, count: int) -> bytes:
    """Whole lines at the end, of so many bytes at most: one that is cut could have lost what shows that a secret
    follows. Raises: OSError."""
    with os.fdopen(os.open(path, os.O_RDONLY | SAFE), "rb") as file:
        begin = max(os.fstat(file.fileno()).st_size - count, 0)
        file.seek(begin)
        found = file.read(count)
    return found if begin == 0 else found.partition(b"\n")[2]
