"""A file of whole lines on a disk that may be full for a while."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from pathlib import Path

from bigrun.links import open_append, read_bytes

__all__ = ["Lines"]

KEPT = 10_000
"""Lines that wait for room, at most; about 10 MB of metrics."""
# Full, or too large; or a disk that fails, or was mounted anew as one to read from after it had failed.
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE}


class Lines:
    """Adds lines to a file. Those that the disk refuses wait in memory for the next attempt, in their order; when too
    many do, the oldest are lost. No line ever stands in the file in part while the disk obeys, and what a kill has left
    of one is cut off before another follows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble: OSError | None = None
        """What the disk has said to the newest attempt; None when all lines are in the file."""
        self.lost = 0
        self._waiting: deque[bytes] = deque(maxlen=KEPT)
        self._is_whole = False

    @property
    def waiting(self) -> int:
        """Lines that are not in the file yet."""
        return len(self._waiting)

    def write(self, *lines: str) -> bool:
        """Add lines behind those that wait, and try to write all; returns whether `trouble` began or ended.

        Raises:
            OSError: the file cannot be written, and not because the disk is full or failing.
        """
        for line in lines:
            self.lost += self.waiting == KEPT
            self._waiting.append(line.encode() + b"\n")
        before, self.trouble = self.trouble, None
        try:
            with contextlib.closing(open_append(self.path)) as file:
                self._drain(file.fileno())
        except OSError as error:
            if error.errno not in PASSING:
                raise
            self.trouble = error
        return (before is None) != (self.trouble is None)

    def _drain(self, descriptor: int) -> None:
        if not self._is_whole:
            self._mend(descriptor)
        while self._waiting:
            before = os.fstat(descriptor)
            try:
                left = memoryview(self._waiting[0])
                while left:
                    left = left[os.write(descriptor, left) :]
            except OSError:
                self._is_whole = False
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, before.st_size)
                    # The file says when its newest line came, to whoever asks whether the run stands still.
                    os.utime(descriptor, ns=(before.st_atime_ns, before.st_mtime_ns))
                raise
            self._waiting.popleft()

    def _mend(self, descriptor: int) -> None:
        """Cut off a last line without an end."""
        text = read_bytes(self.path)
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.ftruncate(descriptor, whole)
        self._is_whole = True
