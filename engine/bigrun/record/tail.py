"""The lines of a file that somebody else is writing."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from bigrun.record.status import epoch_seconds

__all__ = ["Row", "Tail"]

Row = dict[str, Any]
COMPARED_BYTES = 256
"""So many bytes before the place up to which was read tell whether a file goes on from there: rows carry times, which
never come again."""


class Tail:
    """JSON objects, one a line, of a file that grows, is cut and is replaced: `read` takes what came since.

    Only whole lines count: what follows the last line break is still being written. A line that is no row, as a failing
    disk leaves them, is passed over and counted in `damaged`.
    """

    def __init__(self, path: Path, *, is_row: Callable[[Row], bool] = bool, most: int | None = None) -> None:
        """
        Args:
            is_row: whether an object has what every row of this file has.
            most: rows that are kept in memory. Beyond it the older half of them is thinned to every second, fourth and
                so on, evenly, so that a run of weeks keeps its whole course, the newest part of it in full.
        """
        self.path = path
        self.rows: list[Row] = []
        """What is in the file now, in its order."""
        self.damaged = 0
        """Lines that are no rows."""
        self.changed_at: float | None = None
        """When the newest row was written, in seconds since 1970: its own `time_utc` where it has one; else when the
        file was last written to, by the clock of its disk. None where there is no file."""
        self._is_row, self._most = is_row, most
        self._file: tuple[int, int] | None = None
        self._read = b""
        self._position = 0
        self._numbers: list[int] = []
        self._count, self._stride = 0, 1

    def read(self) -> list[Row]:
        """Bring `rows` up to date; returns them. A file that is not there has none.

        Raises:
            OSError: the file is there and cannot be read; ELOOP where it is a link, whatever that leads to.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self.path, flags)
        except FileNotFoundError:
            self._begin_again()
            return self.rows
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):  # a pipe would wait for ever, a device may have no end
                raise OSError(errno.EINVAL, f"expected a file, got another kind of thing: {self.path.name}")
        except OSError:
            os.close(descriptor)
            raise
        with os.fdopen(descriptor, "rb") as file:
            identity = (facts.st_dev, facts.st_ino)
            if identity != self._file or not self._continues(file):
                self._begin_again()
            self._file, self.changed_at = identity, facts.st_mtime
            self._take(file)
        own = epoch_seconds(self.rows[-1].get("time_utc")) if self.rows else None
        self.changed_at = self.changed_at if own is None else own
        return self.rows

    def _continues(self, file: BinaryIO) -> bool:
        """Whether what was read last is still where it was: a resumed run cuts its rows and writes others there."""
        file.seek(self._position - len(self._read))
        return file.read(len(self._read)) == self._read

    def _begin_again(self) -> None:
        self.rows, self.damaged, self.changed_at = [], 0, None
        self._file, self._read, self._position = None, b"", 0
        self._numbers, self._count, self._stride = [], 0, 1

    def _take(self, file: BinaryIO) -> None:
        file.seek(self._position)
        for line in file:
            if not line.endswith(b"\n"):
                break
            self._position += len(line)
            self._read = (self._read + line)[-COMPARED_BYTES:]
            row = parse(line)
            if row is not None and self._is_row(row):
                self.rows.append(row)
                self._numbers.append(self._count)
                self._count += 1
                self._thin()
            else:
                self.damaged += 1

    def _thin(self) -> None:
        if self._most is None or len(self.rows) <= self._most:
            return
        half = len(self.rows) // 2
        old = list(zip(self._numbers[:half], self.rows[:half], strict=True))
        while len(old) > self._most // 4:
            old = [(number, row) for number, row in old if number % self._stride == 0]
            self._stride *= 1 if len(old) <= self._most // 4 else 2
        self._numbers[:half], self.rows[:half] = [number for number, _ in old], [row for _, row in old]


def parse(line: bytes) -> Row | None:
    """The object that a line is, its keys shared with those of other lines: of 100,000 rows they would be most of the
    memory."""
    try:
        row = json.loads(line, object_pairs_hook=shared)
    except (ValueError, RecursionError, TypeError):
        return None
    return row if isinstance(row, dict) else None


def shared(pairs: list[tuple[str, Any]]) -> Row:
    return {sys.intern(key): value for key, value in pairs}
