"""The thread that looks at the machine."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

import attrs

from bigrun.events import Event
from bigrun_telemetry.board import Board, Change
from bigrun_telemetry.bounded import Bounded
from bigrun_telemetry.flags import HUNG, Finding
from bigrun_telemetry.history import History
from bigrun_telemetry.progress import Progress
from bigrun_telemetry.rows import Rows
from bigrun_telemetry.sample import Sample
from bigrun_telemetry.sources import Sources
from bigrun_telemetry.summary import Summary

__all__ = ["Sampler"]

DISK_SECONDS = 10.0
END_SECONDS = 30.0
"""The end of the run waits so long for a sample that is being taken; all its parts have limits of their own."""


class Sampler(threading.Thread):
    """Takes a sample, judges it and writes it down, at every tick. What it has to say waits in `events`; their steps
    are for the run to say."""

    def __init__(
        self,
        sources: Callable[[Callable[[Event], None]], Sources],
        progress: Progress,
        rows: Rows,
        judge: Callable[[History], list[Finding]],
        interval_seconds: float,
    ) -> None:
        """`sources`: opens them; it is given what takes their events."""
        super().__init__(name="telemetry", daemon=True)
        self._waiting: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._sources, self._progress, self._rows = sources(self._waiting.put), progress, rows
        self._judge, self._interval_seconds = judge, interval_seconds
        self._history, self._board, self._summary = History(), Board(), Summary()
        self._disk = Bounded("telemetry-disk", DISK_SECONDS)
        self._terminal = Bounded("telemetry-stderr", 1.0)
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._lost = 0
        self.lock = threading.Lock()
        """Hold it to read `facts`."""
        self.allocator = Sample()
        """What the run's thread has read of torch's allocator."""
        self.wants_allocator = True
        """It should read that again."""
        self.error: Exception | None = None
        """What has ended the thread."""

    @property
    def facts(self) -> tuple[History, Board, Summary]:
        return self._history, self._board, self._summary

    def events(self) -> Iterator[Event]:
        """What has come up since; for the run's thread."""
        while not self._waiting.empty():
            yield self._waiting.get()

    def run(self) -> None:
        try:
            self.take()
            while not self._ended.wait(self._interval_seconds):
                self.take()
        except Exception as error:  # a defect of telemetry: the next hook raises it
            self.error = error

    def take(self) -> None:
        """One sample: look, judge, write."""
        self.wants_allocator = True
        now = Sample(
            time_utc=datetime.now(UTC).isoformat(timespec="milliseconds"),
            elapsed_seconds=time.monotonic() - self._began,
        )
        sample = now.filled(self._progress.read()).filled(self._sources.read()).filled(self.allocator)
        with self.lock:
            self._history.add(sample)
            changes = self._board.update(self._judge(self._history), sample.elapsed_seconds or 0.0)
            sample = attrs.evolve(sample, flags=tuple(finding.flag for finding in self._board.up))
            self._summary.add(sample, changes)
        for change in changes:
            self._say(change)
        self._write(sample)

    def _say(self, change: Change) -> None:
        """A run that hangs calls no hook: that it does goes to standard error at once, past Python's own stream, which
        may be what hangs."""
        event = change.event()
        self._waiting.put(event)
        if change.finding.flag == HUNG:
            with suppress(OSError):
                self._terminal.call(lambda: os.write(2, f"telemetry: {event.message}\n".encode()))

    def _write(self, sample: Sample) -> None:
        """Add a row; one that the disk refuses is lost, and said when that begins and ends."""
        try:
            self._disk.call(lambda: self._rows.add(sample.line()))
        except OSError as error:
            if not self._lost:
                why = error.strerror or str(error)
                message = f"{self._rows.path} cannot be written ({why}); training goes on, and its rows are lost"
                self._waiting.put(Event("telemetry-degraded", message, 0, "error"))
            self._lost += 1
        else:
            if self._lost:
                message = f"{self._rows.path} is written again; {self._lost:,} rows are lost"
                self._waiting.put(Event("telemetry-recovered", message, 0, "warning"))
            self._lost = 0

    def end(self) -> None:
        """Take no more samples, and release what the sources hold."""
        self._ended.set()
        if self.is_alive():
            self.join(END_SECONDS)
        if not self.is_alive():  # else a source has not come back, and its library is in use
            self._sources.close()
