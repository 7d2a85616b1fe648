"""Lines of a file of which not all are needed, and of which nobody knows how long they are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

__all__ = ["lines_of"]


def lines_of(path: Path, every: int, longest: int) -> Iterator[bytes]:
    """Every `every`-th whole line, without those of more than `longest` bytes, which are never whole in memory. What is
    no file has none.

    Raises:
        OSError: it cannot be read; ELOOP where it is a link, whatever that leads to.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # a pipe would wait for ever, a device may have no end
            return
        number, is_begun = 0, False
        while piece := file.readline(longest):
            is_end = piece.endswith(b"\n")
            if is_end and not is_begun and number % every == 0:
                yield piece
            number, is_begun = number + is_end, not is_end
