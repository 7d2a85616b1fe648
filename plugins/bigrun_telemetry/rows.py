"""`telemetry.jsonl`: a row for every sample, in files of bounded size."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from bigrun.links import open_append, read_bytes
from bigrun.logs import TELEMETRY

__all__ = ["PART_BYTES", "Rows"]

PART_BYTES = 32 * 2**20
"""A file that is larger is put aside, and a new one begun."""


class Rows:
    """Adds rows. They are history, as events are: a resumed run keeps those behind its checkpoint, since what the
    hardware did before a crash is what one wants to know, and `time_utc` orders them.

    telemetry.jsonl                     the newest
    telemetry/rows-until-<UTC>.jsonl    older ones, of which the oldest are removed beyond `keep_bytes`

    From rank 1 on, names have `-rank-<r>` in them.
    """

    def __init__(self, directory: Path, folder: Path, rank: int, keep_bytes: int) -> None:
        suffix = f"-rank-{rank}" if rank else ""
        path = directory / TELEMETRY
        self.path = path.with_stem(f"{path.stem}{suffix}")
        self._folder, self._prefix, self._keep_bytes = folder, f"rows{suffix}-until-", keep_bytes
        self._is_whole = False

    def add(self, line: str) -> None:
        """
        Raises:
            OSError: the disk refuses it, or the file is a link; the row is not there, not even in part, while the disk
                obeys.
        """
        with open_append(self.path) as file:
            descriptor = file.fileno()
            if not self._is_whole:
                self._mend(descriptor)
            end = os.fstat(descriptor).st_size
            data = line.encode() + b"\n"
            try:
                written = os.write(descriptor, data)
                if written < len(data):
                    raise OSError(28, "No space left on device")
            except OSError:
                self._is_whole = False
                os.ftruncate(descriptor, end)
                raise
        if end + len(data) >= PART_BYTES:
            self._put_aside()

    def _mend(self, descriptor: int) -> None:
        """Cut off a last row that a kill has left in part."""
        text = read_bytes(self.path)
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.ftruncate(descriptor, whole)
        self._is_whole = True

    def _put_aside(self) -> None:
        moment = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        self.path.rename(self._folder / f"{self._prefix}{moment}.jsonl")
        parts = sorted(self._folder.glob(f"{self._prefix}*.jsonl"), reverse=True)
        kept = PART_BYTES  # of the file that begins now
        for part in parts:
            kept += part.stat().st_size
            if kept > self._keep_bytes:
                part.unlink()
