"""The folder `watchdog` of a run directory: what one process leaves for the next."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import attrs

__all__ = ["Hang", "Records"]


@attrs.frozen
class Hang:
    """A run that did not move."""

    step: int
    activity: str
    seconds: float
    limit_seconds: float
    stacks: str
    """The file with the stacks of all threads."""
    rank: int = 0
    others: str = ""
    """Of several processes, in words, who waits for whom."""
    only_waits: bool = False
    """It is another process that stood still."""

    def __str__(self) -> str:
        return (
            f"step {self.step} stood still for {self.seconds:.0f} s in {self.activity!r} (limit "
            f"{self.limit_seconds:g} s){self.others}; stacks of all threads: {self.stacks}"
        )


class Records:
    """The files of one rank.

    stacks-<UTC>-step-<n>.txt       the stacks of a hang
    hang.json                       a hang that ended the process, until the next one has said so
    interpreter.txt                 what the sentinel wrote when native code kept the interpreter, until then

    From rank 1 on, names have `-rank-<r>` in front of their ending.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder = folder
        self._suffix = f"-rank-{rank}" if rank else ""
        self._hang = self._path("hang", ".json")
        self.interpreter = self._path("interpreter", ".txt")

    def new_stacks(self, step: int) -> Path:
        """A new name for the stacks of a hang in this step."""
        return self._path(f"stacks-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-step-{step}", ".txt")

    def leave(self, hang: Hang) -> None:
        """Keep it for the next process."""
        beside = self._hang.with_suffix(".tmp")
        beside.write_text(json.dumps(attrs.asdict(hang)), encoding="utf-8")
        os.replace(beside, self._hang)  # noqa: PTH105 - one atomic rename

    def take_hangs(self) -> list[Hang]:
        """What has ended the processes before, of all ranks, for the main process to tell: of those that hung, and of
        those that waited for them only where nobody knows of another."""
        paths = sorted(self._folder.glob("hang*.json"))
        hangs = [Hang(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]
        for path in paths:
            path.unlink()
        return [hang for hang in hangs if not hang.only_waits] or hangs

    def take_interpreter(self) -> Path | None:
        """The stacks that the sentinel of the process before has written, under a name that lasts."""
        try:
            if not self.interpreter.stat().st_size:
                return None
        except FileNotFoundError:
            return None
        return self.interpreter.rename(self._path(f"stacks-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-interpreter", ".txt"))

    def _path(self, stem: str, ending: str) -> Path:
        return self._folder / f"{stem}{self._suffix}{ending}"
