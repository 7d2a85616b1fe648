"""A run as its directory shows it, while it runs or afterwards. Torch-free, and read-only."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli

from bigrun.checkpoint.layout import CONFIG
from bigrun.checkpoint.listing import Entry, look
from bigrun.errors import UsageError
from bigrun.links import read_bytes
from bigrun.lock import Owner, holder
from bigrun.logs import CHECKPOINT, EVENTS, METRICS, STARTED, TELEMETRY
from bigrun.record.newest import newest_saved
from bigrun.record.pace import Pace, number, pace_of, whole
from bigrun.record.place import check_is_run, unreadable_folders
from bigrun.record.status import Status, epoch_seconds, refused_since, status_of
from bigrun.record.tail import Row, Tail

__all__ = ["RunRecord", "check_is_run"]

MOST_METRICS, MOST_TELEMETRY = 50_000, 20_000
COMPUTED = ("_names", "pace", "status", "step", "unreadable")
"""What is computed from one reading, once."""


class RunRecord:
    """What a run directory says. `refresh` reads what has come since; the files are those that the run is writing.

    A file that is not there, as of a plugin that was not active, is empty. Everything else is computed from what was
    read last, so that the parts of one view agree with each other.
    """

    def __init__(self, directory: Path, *, is_own: bool = False) -> None:
        """
        Args:
            is_own: this process is the one that trains there. Then it must not touch `run.lock`: closing the file
                would give the lock back.

        Raises:
            UsageError: the directory holds no run, or what is there cannot be read.
        """
        check_is_run(directory)
        self.directory = directory
        self.is_own = is_own
        self._metrics = Tail(directory / METRICS, is_row=has_step, most=MOST_METRICS)
        self._events = Tail(directory / EVENTS, is_row=is_event)
        self._telemetry = Tail(directory / TELEMETRY, most=MOST_TELEMETRY)
        self.owner: Owner | None = None
        """The process that trains; None when nobody does."""
        self.config: Mapping[str, Any] = {}
        """The resolved configuration."""
        self.read_at = 0.0
        """When `refresh` was called last, in seconds since 1970: ages are meant at that moment."""
        self.refresh()

    def refresh(self) -> None:
        """Read what has come since.

        Raises:
            UsageError: the configuration or a log cannot be read, or is a link.
        """
        # Asked before: a process that ends meanwhile has said so in what is read afterwards.
        owner = Owner.this_process() if self.is_own else holder(self.directory)
        try:
            self.config = tomli.loads(read_bytes(self.directory / CONFIG).decode())
            for tail in (self._metrics, self._events, self._telemetry):
                tail.read()
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{self.directory}: cannot be read: {error}") from None
        self.owner, self.read_at = owner, time.time()
        for name in COMPUTED:
            self.__dict__.pop(name, None)

    # -- what was read ----------------------------------------------------------------------------------------

    @property
    def metrics(self) -> Sequence[Row]:
        """Rows of metrics by ascending step; a number that was not finite is a text, as `"nan"`. Of a run with more
        than 50,000 of them the older half is thinned (`Tail`)."""
        return self._metrics.rows

    @property
    def events(self) -> Sequence[Row]:
        """Events in the order of time, of all processes that have trained here: `kind`, `message`, `step`, `level`,
        `facts`, `time_utc`."""
        return self._events.rows

    @property
    def telemetry(self) -> Sequence[Row]:
        """The newest rows of telemetry, in the order of time; thinned beyond 20,000."""
        return self._telemetry.rows

    @property
    def damaged_lines(self) -> int:
        """Lines of the logs that are no rows: a disk that fails, or somebody else's writing."""
        return self._metrics.damaged + self._events.damaged + self._telemetry.damaged

    def events_of(self, *kinds: str) -> list[Row]:
        """The events of these kinds, the newest last."""
        return [event for event in self.events if event["kind"] in kinds]

    def names(self) -> list[str]:
        """Every metric that is in a row, sorted: some are measured every thousandth step."""
        return list(self._names)

    @cached_property
    def _names(self) -> list[str]:
        return sorted(set().union(*self.metrics) - {"step"})

    def newest(self, name: str) -> float | None:
        """The newest finite number of a metric; None where there is none."""
        return next((v for row in reversed(self.metrics) if (v := number(row, name)) is not None), None)

    def curve(self, name: str, most: int | None = None) -> tuple[list[int], list[float]]:
        """Steps and values of a metric, without those that were not finite.

        Args:
            most: so many points at most, spread evenly over the rows that have the metric; the newest is among them.
        """
        rows = [row for row in self.metrics if name in row]
        if most is not None and len(rows) > most:
            stride = -(-len(rows) // most)
            rows = rows[(len(rows) - 1) % stride :: stride]
        points = [(row["step"], value) for row in rows if (value := number(row, name)) is not None]
        return [step for step, _ in points], [value for _, value in points]

    def option(self, section: str, name: str) -> Any:
        """An option of the resolved configuration; None where it is absent."""
        table = self.config.get(section)
        return table.get(name) if isinstance(table, Mapping) else None

    def count(self, section: str, name: str) -> int | None:
        """An option that is a whole number; None where it is none."""
        return whole(self.option(section, name))

    def checkpoints(self) -> list[Entry]:
        """What lies in the folders of checkpoints, of which there may be none yet; sizes are compared, no byte is
        hashed (the run itself reads back each that it has saved before it publishes it). See `unreadable`."""
        with contextlib.suppress(UsageError, OSError):
            return look(self.directory, verify=False, on_refusal=lambda folder, error: None)
        return []

    @cached_property
    def unreadable(self) -> tuple[str, ...]:
        """What of it cannot be read, and why, as `checkpoints/ cannot be read (Permission denied)`: what lies there is
        in none of the answers."""
        return tuple(unreadable_folders(self.directory))

    # -- how it stands ----------------------------------------------------------------------------------------

    @property
    def has_log(self) -> bool:
        """Whether anything was written of its steps or events."""
        return bool(self.metrics or self.events)

    @cached_property
    def step(self) -> int:
        """The newest step that a log tells of; where none is written, that of the newest checkpoint; 0 without one."""
        if not self.has_log:
            return newest_saved(self.directory) or 0
        return max(int(row["step"]) for row in (*self.metrics[-1:], *self.events[-1:]))

    @property
    def max_steps(self) -> int | None:
        """The last step, or None for a run without end."""
        return self.count("run", "max_steps")

    @property
    def began_after(self) -> int:
        """The step after which the newest process began."""
        return next((event["step"] for event in reversed(self.events) if event["kind"] == STARTED), 0)

    @cached_property
    def status(self) -> Status:
        """How the run stands: running, or what has ended it."""
        return status_of(self.events, self.owner, self.step, self.max_steps, is_own=self.is_own)

    @property
    def images_seen(self) -> int | None:
        """Images that training has consumed, each once for every time it was shown; None where nobody knows how many
        there are in a step. A run that went back has seen more than its steps tell."""
        batch = self.count("data", "effective_batch")
        if batch is None:
            return None
        for event in reversed(self.events_of("rolled-back")):
            position, there = (whole(event["facts"].get(name)) for name in ("position", "to_step"))
            if position is not None and there is not None and there <= self.step:
                return position + (self.step - there) * batch
        return self.step * batch

    @cached_property
    def pace(self) -> Pace:
        """Steps and images a second of the newest rows of this process, and the share of time without images."""
        return pace_of(self.metrics, self.began_after)

    @property
    def seconds_left(self) -> float | None:
        """Until the last step, at the pace of now; None where the run is over, has no end, or no pace yet."""
        speed = self.pace.steps_per_second
        if self.max_steps is None or not speed or not self.status.is_running:
            return None
        return max(self.max_steps - self.step, 0) / speed

    @property
    def row_age_seconds(self) -> float | None:
        """Since the newest row of metrics was written; None before there is one. Where the disk refuses rows, no later
        than since it does."""
        times = (self._metrics.changed_at, refused_since(self.events, METRICS)) if self.metrics else ()
        return self._age(min((moment for moment in times if moment is not None), default=None))

    @property
    def telemetry_age_seconds(self) -> float | None:
        """Since the newest row of telemetry."""
        return self._age(epoch_seconds(self.telemetry[-1].get("time_utc")) if self.telemetry else None)

    @property
    def checkpoint_age_seconds(self) -> float | None:
        """Since the newest checkpoint was published; None when no log tells of one."""
        saved = self.events_of(CHECKPOINT)[-1:]
        return self._age(epoch_seconds(saved[0].get("time_utc")) if saved else None)

    @property
    def silent_seconds(self) -> float | None:
        """Since the newest sign of life of any kind; None when there is none."""
        events = epoch_seconds(self.events[-1].get("time_utc")) if self.events else None
        ages = [self.row_age_seconds, self.telemetry_age_seconds, self._age(events)]
        return min((age for age in ages if age is not None), default=None)

    def _age(self, moment: float | None) -> float | None:
        """Not negative: the clock of another machine may be ahead."""
        return None if moment is None else max(self.read_at - moment, 0.0)


def has_step(row: Row) -> bool:
    return whole(row.get("step")) is not None


def is_event(row: Row) -> bool:
    """Whether it has what every event has; `facts` are filled in."""
    words = isinstance(row.get("kind"), str) and isinstance(row.get("message"), str)
    return words and has_step(row) and isinstance(row.setdefault("facts", {}), dict)
