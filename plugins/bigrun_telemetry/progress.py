"""How fast the run is, from its hooks."""

from __future__ import annotations

import bisect
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

import attrs

from bigrun_telemetry.sample import Sample

__all__ = ["Progress", "quantile"]

RECENT_STEPS = 200
MINUTE_SECONDS, FIVE_MINUTES_SECONDS = 60.0, 300.0

State = tuple[int, str]
"""The step being taken, and `run.activity`."""


@attrs.frozen
class Mark:
    """The end of a step, on a clock without the stalls of saves."""

    seconds: float
    images: int


class Progress:
    """The run's thread says what has happened, in a microsecond; the sampling thread asks what that means."""

    def __init__(self, look: Callable[[], State], tick_seconds: float, clock: Callable[[], float] = time.monotonic):
        """
        Args:
            look: the run's state; called by the sampling thread.
            tick_seconds: how often `read` is called. Of a longer pause only twice that counts as standing still: the
                process was stopped, or the machine slept.
        """
        self._look, self._tick_seconds, self._clock = look, tick_seconds, clock
        self._lock = threading.Lock()
        self._durations: deque[float] = deque(maxlen=RECENT_STEPS)
        self._last: Mark | None = None
        self._ended_at = self._stalled_seconds = self._stall_in_step = 0.0
        self._saved_at: float | None = None
        self._data_wait: float | None = None
        self._loss_is_finite: bool | None = None
        # the sampling thread's own
        self._marks: deque[Mark] = deque()
        self._waits: deque[tuple[float, float]] = deque()
        self._minute_rates: list[float] = []
        self._minute_waits: list[float] = []
        self._minute_at = self._read_at = clock()
        self._state: State | None = None
        self._standstill_seconds = 0.0

    # -- in the run's thread ----------------------------------------------------------------------------------

    def step_ended(self, images: int) -> None:
        """`images`: consumed by all steps of the run."""
        now = self._clock()
        with self._lock:
            if self._last is not None:  # the first step of a process compiles and fills caches
                self._durations.append(now - self._ended_at - self._stall_in_step)
            self._last, self._ended_at = Mark(now - self._stalled_seconds, images), now
            self._stall_in_step = 0.0

    def metrics_came(self, metrics: Mapping[str, float]) -> None:
        loss = metrics.get("loss")
        self._loss_is_finite = None if loss is None else abs(loss) < float("inf")
        self._data_wait = metrics.get("data_wait_fraction")

    def saved(self, stall_seconds: float, *, just_now: bool) -> None:
        """A checkpoint is there.

        Args:
            stall_seconds: training stood still for it.
            just_now: since the last step, not in one of those before.
        """
        with self._lock:
            self._saved_at = self._clock()
            self._stalled_seconds += stall_seconds
            self._stall_in_step += stall_seconds if just_now else 0.0

    # -- in the sampling thread -------------------------------------------------------------------------------

    def read(self) -> Sample:
        """What is known now."""
        now = self._clock()
        with self._lock:
            durations, last, saved_at = sorted(self._durations), self._last, self._saved_at
        self._remember(now, last)
        state = self._look()
        passed = min(now - self._read_at, 2 * self._tick_seconds)
        self._standstill_seconds = self._standstill_seconds + passed if state == self._state else 0.0
        self._state, self._read_at = state, now
        return Sample(
            step=state[0],
            activity=state[1],
            standstill_seconds=self._standstill_seconds,
            images_per_second_1min=self._rate(MINUTE_SECONDS),
            images_per_second_5min=self._rate(FIVE_MINUTES_SECONDS),
            images_per_second_run_median=median(self._minute_rates),
            step_p50_ms=quantile(durations, 0.5, 1e3),
            step_p95_ms=quantile(durations, 0.95, 1e3),
            step_max_ms=quantile(durations, 1.0, 1e3),
            data_wait_fraction=statistics.fmean(wait for _, wait in self._waits) if self._waits else None,
            data_wait_run_median_fraction=median(self._minute_waits),
            loss_is_finite=self._loss_is_finite,
            checkpoint_age_seconds=None if saved_at is None else now - saved_at,
        )

    def _remember(self, now: float, last: Mark | None) -> None:
        """Keep marks and waits of five minutes, and a number for every minute of the run."""
        if last is not None and (not self._marks or last != self._marks[-1]):
            self._marks.append(last)
            while len(self._marks) > 2 and self._marks[1].seconds <= last.seconds - FIVE_MINUTES_SECONDS:
                self._marks.popleft()
        if self._data_wait is not None:
            self._waits.append((now, self._data_wait))
            while self._waits[0][0] < now - FIVE_MINUTES_SECONDS:
                self._waits.popleft()
        if now - self._minute_at >= MINUTE_SECONDS:
            self._minute_at = now
            rate = self._rate(MINUTE_SECONDS)
            if rate is not None:
                bisect.insort(self._minute_rates, rate)
            if self._data_wait is not None:
                bisect.insort(self._minute_waits, self._data_wait)

    def _rate(self, seconds: float) -> float | None:
        """Images per second over whole steps of at least so long a time; None before that."""
        if not self._marks:
            return None
        last = self._marks[-1]
        then = next((mark for mark in reversed(self._marks) if mark.seconds <= last.seconds - seconds), None)
        return None if then is None else (last.images - then.images) / (last.seconds - then.seconds)


def quantile(ascending: list[float], fraction: float, factor: float = 1.0) -> float | None:
    """The smallest value that at least this fraction of them does not exceed, times `factor`; None of nothing."""
    if not ascending:
        return None
    rank = max(-int(-fraction * len(ascending) // 1), 1)
    return ascending[rank - 1] * factor


def median(ascending: list[float]) -> float | None:
    return quantile(ascending, 0.5)
