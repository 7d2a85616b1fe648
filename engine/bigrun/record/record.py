"""A run as its directory shows it, while it runs or afterwards. Torch-free, and read-only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli

from bigrun.checkpoint.layout import CONFIG
from bigrun.checkpoint.listing import Entry, look
from bigrun.errors import UsageError
from bigrun.lock import Owner, holder
from bigrun.record.tail import Tail

__all__ = ["RunRecord"]


class RunRecord:
    """What a run directory says. `refresh` reads what has come since; the files are those that the run is writing.

    A file that is not there, as of a plugin that was not active, is empty.
    """

    def __init__(self, directory: Path, *, is_own: bool = False) -> None:
        """
        Args:
            is_own: this process is the one that trains there. Then it must not touch `run.lock`: closing the file
                would give the lock back.

        Raises:
            UsageError: the directory holds no run.
        """
        if not (directory / CONFIG).is_file():
            raise UsageError(f"{directory}: no run (there is no {CONFIG}); expected a run directory, as runs/vit_large")
        self.directory = directory
        self.is_own = is_own
        self._metrics = Tail(directory / "metrics.jsonl")
        self._events = Tail(directory / "events.jsonl")
        self._telemetry = Tail(directory / "telemetry.jsonl")
        self.owner: Owner | None = None
        """The process that trains; None when nobody does."""
        self.config: Mapping[str, Any] = {}
        """The resolved configuration."""
        self.refresh()

    def refresh(self) -> None:
        """Read what has come since.

        Raises:
            UsageError: the configuration or a log cannot be read.
        """
        try:
            self.config = tomli.loads((self.directory / CONFIG).read_text(encoding="utf-8"))
            for tail in (self._metrics, self._events, self._telemetry):
                tail.read()
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.directory}: cannot be read: {error}") from None
        self.owner = Owner.this_process() if self.is_own else holder(self.directory)

    @property
    def metrics(self) -> Sequence[Mapping[str, Any]]:
        """Rows of metrics by ascending step; a number that was not finite is a text, as `"nan"`."""
        return self._metrics.rows

    @property
    def events(self) -> Sequence[Mapping[str, Any]]:
        """Events in the order of time, of all processes that have trained here: `kind`, `message`, `step`, `level`,
        `facts`, `time_utc`."""
        return self._events.rows

    @property
    def telemetry(self) -> Sequence[Mapping[str, Any]]:
        """The newest rows of telemetry, in the order of time."""
        return self._telemetry.rows

    @property
    def step(self) -> int:
        """The newest step that a log tells of; 0 when none does."""
        return max((int(row["step"]) for row in (*self.metrics[-1:], *self.events[-1:]) if "step" in row), default=0)

    @property
    def max_steps(self) -> int | None:
        """The last step, or None for a run without end."""
        steps: int | None = self.config.get("run", {}).get("max_steps")
        return steps

    def checkpoints(self) -> list[Entry]:
        """What lies in the folders of checkpoints; sizes are compared, no byte is hashed."""
        return look(self.directory, verify=False)
