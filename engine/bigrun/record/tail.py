"""The lines of a file that somebody else is writing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["Tail"]


class Tail:
    """JSON objects, one a line, of a file that grows, is cut and is replaced: `read` returns what came since.

    Only whole lines count: what follows the last line break is still being written. A line that is no JSON object, as a
    failing disk leaves them, is passed over and counted in `damaged`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        """Everything that is in the file now."""
        self.damaged = 0
        self._file: tuple[int, int] | None = None
        self._read = b""
        self._position = 0

    def read(self) -> list[dict[str, Any]]:
        """Bring `rows` up to date; returns them. A file that is not there has none; neither has a link or a pipe.

        Raises:
            OSError: the file is there and cannot be read.
        """
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(self.path, flags)
        except FileNotFoundError:
            self._begin_again()
            return self.rows
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(file.fileno())
            if (facts.st_dev, facts.st_ino) != self._file or not self._continues(file, facts.st_size):
                self._begin_again()
                self._file = (facts.st_dev, facts.st_ino)
            file.seek(self._position)
            self._take(file.read())
        return self.rows

    def _continues(self, file: Any, size: int) -> bool:
        """Whether what was read last is still where it was: a resumed run cuts its rows and writes others there."""
        if size < self._position:
            return False
        file.seek(self._position - len(self._read))
        return bool(file.read(len(self._read)) == self._read)

    def _begin_again(self) -> None:
        self.rows, self.damaged, self._file, self._read, self._position = [], 0, None, b"", 0

    def _take(self, data: bytes) -> None:
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                self.rows.append(row)
            else:
                self.damaged += 1
        self._position += len(whole)
        if whole:
            self._read = whole[-256:]
