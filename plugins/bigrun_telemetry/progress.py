"""How fast the run is, from its hooks."""

from __future__ import annotations

import bisect
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

import attrs

from bigrun_telemetry.sample import Sample
from bigrun_telemetry.usual import Kind, Spent, Usual
from bigrun_telemetry.waits import Waits

__all__ = ["Progress", "quantile"]

RECENT_STEPS = 200
MINUTE_SECONDS, FIVE_MINUTES_SECONDS = 60.0, 300.0
MOST_KINDS = 32
"""Steps of more kinds than these are not compared with anything: something names its loss terms after the step."""

State = tuple[int, str]
"""The step being taken, and `run.activity`."""


@attrs.frozen
class Mark:
    """The end of a step, on a clock without the stalls of saves and the pauses in which plugins look at the run."""

    seconds: float
    images: int
    moved_bytes: int = 0


class Progress:
    """The run's thread says what has happened, in a microsecond; the sampling thread asks what that means."""

    def __init__(
        self,
        look: Callable[[], State],
        tick_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        link_gbps: float | None = None,
    ) -> None:
        """
        Args:
            look: the run's state; called by the sampling thread.
            tick_seconds: how often `read` is called. Of a longer pause only twice that counts as standing still: the
                process was stopped, or the machine slept.
            link_gbps: GB/s that the GPU's slot carries.
        """
        self._look, self._tick_seconds, self._clock, self._link_gbps = look, tick_seconds, clock, link_gbps
        self._lock = threading.Lock()
        self._durations: deque[float] = deque(maxlen=RECENT_STEPS)
        self._last: Mark | None = None
        self._ended_at = self._stalled_seconds = self._stall_in_step = 0.0
        self._paused_at: float | None = None
        self._pauses_seconds = 0.0
        self._kinds: set[Kind] = set()
        self._spent: dict[Kind, Spent] = {}
        self._saved_at: float | None = None
        self._metrics: Mapping[str, float] = {}
        # the sampling thread's own
        self._usual, self._waits = Usual(), Waits()
        self._marks: deque[Mark] = deque()
        self._minute_rates: list[float] = []
        self._minute_at = self._read_at = clock()
        self._state: State | None = None
        self._standstill_seconds = 0.0

    # -- in the run's thread ----------------------------------------------------------------------------------

    def step_ended(self, images: int, kind: Kind | None = None, moved_bytes: int = 0) -> None:
        """
        Args:
            images: consumed by all steps of the run.
            kind: what the step has computed; None of one that was skipped.
            moved_bytes: by this step, from host to device.
        """
        now = self._clock()
        with self._lock:
            if self._last is not None:  # the first step of a process compiles and fills caches
                seconds = now - self._ended_at - self._stall_in_step
                self._durations.append(seconds)
                if kind in self._kinds:  # so does the first of its kind
                    self._spent.setdefault(kind, Spent()).add(1, seconds)
            if kind is not None and len(self._kinds) < MOST_KINDS:
                self._kinds.add(kind)
            moved_bytes += 0 if self._last is None else self._last.moved_bytes
            self._last, self._ended_at = Mark(now - self._stalled_seconds, images, moved_bytes), now
            self._stall_in_step = 0.0

    def pause_began(self) -> None:
        """Plugins look at the run: they evaluate it, draw pictures, write."""
        self._paused_at = self._clock()

    def pause_ended(self) -> None:
        with self._lock:
            seconds = 0.0 if self._paused_at is None else self._clock() - self._paused_at
            self._paused_at = None
            self._pauses_seconds += seconds
            self._stall(seconds, just_now=True)

    def metrics_came(self, metrics: Mapping[str, float]) -> None:
        self._metrics = dict(metrics)

    def saved(self, stall_seconds: float, *, just_now: bool) -> None:
        """A checkpoint is there.

        Args:
            stall_seconds: training stood still for it.
            just_now: since the last step, not in one of those before.
        """
        with self._lock:
            self._saved_at = self._clock()
            self._stall(stall_seconds, just_now=just_now)

    def _stall(self, seconds: float, *, just_now: bool) -> None:
        self._stalled_seconds += seconds
        self._stall_in_step += seconds if just_now else 0.0

    # -- in the sampling thread -------------------------------------------------------------------------------

    def read(self) -> Sample:
        """What is known now."""
        with self._lock:
            now, metrics, saved_at = self._clock(), self._metrics, self._saved_at
            durations, last = sorted(self._durations), self._last
            spent, self._spent = self._spent, {}
            pauses = self._pauses_seconds + (0.0 if self._paused_at is None else now - self._paused_at)
        self._usual.add(now, spent)
        self._waits.add(now, metrics.get("data_wait_fraction"), pauses)
        self._remember(now, last)
        state, loss = self._standing(now), metrics.get("loss")
        moved = self._rate("moved_bytes", FIVE_MINUTES_SECONDS) or None
        return Sample(
            step=state[0],
            activity=state[1],
            standstill_seconds=self._standstill_seconds,
            images_per_second_1min=self._rate("images", MINUTE_SECONDS),
            images_per_second_5min=self._rate("images", FIVE_MINUTES_SECONDS),
            images_per_second_run_median=quantile(self._minute_rates, 0.5),
            speed_fraction=self._usual.speed_fraction,
            kinds_of_steps=len(self._kinds) or None,
            step_p50_ms=quantile(durations, 0.5, 1e3),
            step_p95_ms=quantile(durations, 0.95, 1e3),
            step_max_ms=quantile(durations, 1.0, 1e3),
            data_wait_fraction=self._waits.data_fraction,
            data_wait_usual_fraction=self._waits.usual_data_fraction,
            observe_fraction=self._waits.pause_fraction,
            h2d_bytes_per_second=moved,
            h2d_fraction=moved / (1e9 * self._link_gbps) if moved and self._link_gbps else None,
            model_tflops_per_second=metrics.get("model_tflops_per_second"),
            mfu_fraction=metrics.get("mfu_fraction"),
            mfu_of_measured_fraction=metrics.get("mfu_of_measured_fraction"),
            loss_is_finite=None if loss is None else abs(loss) < float("inf"),
            checkpoint_age_seconds=None if saved_at is None else now - saved_at,
        )

    def _standing(self, now: float) -> State:
        """The run's state, and how long it is the same."""
        state = self._look()
        passed = min(now - self._read_at, 2 * self._tick_seconds)
        self._standstill_seconds = self._standstill_seconds + passed if state == self._state else 0.0
        self._state, self._read_at = state, now
        return state

    def _remember(self, now: float, last: Mark | None) -> None:
        """Keep marks of five minutes, and a number for every minute of the run."""
        if last is not None and (not self._marks or last != self._marks[-1]):
            self._marks.append(last)
            while len(self._marks) > 2 and self._marks[1].seconds <= last.seconds - FIVE_MINUTES_SECONDS:
                self._marks.popleft()
        if now - self._minute_at >= MINUTE_SECONDS:
            self._minute_at = now
            rate = self._rate("images", MINUTE_SECONDS)
            if rate is not None:
                bisect.insort(self._minute_rates, rate)

    def _rate(self, what: str, seconds: float) -> float | None:
        """Per second, over whole steps of at least so long a time; None before that."""
        if not self._marks:
            return None
        last = self._marks[-1]
        then = next((mark for mark in reversed(self._marks) if mark.seconds <= last.seconds - seconds), None)
        if then is None:
            return None
        return float((getattr(last, what) - getattr(then, what)) / (last.seconds - then.seconds))


def quantile(ascending: list[float], fraction: float, factor: float = 1.0) -> float | None:
    """The smallest value that at least this fraction of them does not exceed, times `factor`; None of nothing."""
    if not ascending:
        return None
    rank = max(-int(-fraction * len(ascending) // 1), 1)
    return ascending[rank - 1] * factor
