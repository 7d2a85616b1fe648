"""The samples of this process: the last five minutes of them, and what the run was like at its best."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

from bigrun_telemetry.sample import Sample

__all__ = ["BUSY", "FIVE_MINUTES_SECONDS", "MINUTE_SECONDS", "History"]

MINUTE_SECONDS, FIVE_MINUTES_SECONDS, HOUR_SECONDS = 60.0, 300.0, 3600.0
BUSY = 0.9
"""A GPU that is less busy lowers its clock because it has nothing to do."""
SPANNED = 0.8
"""A window counts when its samples span so much of it."""
STEADY = 0.9
"""Share of samples that are busy in a steady window."""
MOSTLY = 0.5
"""Share of samples that must be busy for the clock of a window to mean anything."""


class History:
    """Feed it with every sample, in order. It reads no clock: all that it says follows from the samples."""

    def __init__(self) -> None:
        self._recent: deque[Sample] = deque()
        self._memory: deque[tuple[float, float]] = deque()
        self._growth: float | None = None
        self._kinds: int | None = None
        self._changed_at = -math.inf
        self.run_best_clock_mhz: float | None = None
        """The highest median clock of a minute in which the GPU was busy."""
        self.best_clock_mhz: float | None = None
        """The same since the run began to take steps of another kind: these may need more power, and a lower clock."""
        self.steady_clock_mhz: float | None = None
        """The median clock of the first five minutes since then in which the GPU was busy throughout."""

    def add(self, sample: Sample) -> None:
        self._recent.append(sample)
        while age(self._recent[0], sample) > FIVE_MINUTES_SECONDS:
            self._recent.popleft()
        self._add_clock(sample)
        self._add_memory(sample)

    @property
    def now(self) -> Sample:
        """The newest sample."""
        return self._recent[-1]

    def recent(self, seconds: float = FIVE_MINUTES_SECONDS) -> Sequence[Sample]:
        """The samples of the last so many seconds, at most 300."""
        return [sample for sample in self._recent if age(sample, self.now) <= seconds]

    def clock_mhz(self, seconds: float, busy_share: float = MOSTLY) -> float | None:
        """Median clock of the busy samples in the last so many seconds; None when the samples do not span them, or too
        few are busy, or nobody knows."""
        window = self.recent(seconds)
        if age(window[0], self.now) < SPANNED * seconds:
            return None
        busy = [s.gpu_clock_mhz for s in window if s.gpu_clock_mhz is not None and (s.gpu_busy_fraction or 0) >= BUSY]
        return statistics.median(busy) if len(busy) >= busy_share * len(window) and busy else None

    def rise(self, name: str) -> float:
        """How far a counter has risen within the last five minutes."""
        values = [value for sample in self._recent if (value := getattr(sample, name)) is not None]
        return float(values[-1] - values[0]) if values else 0.0

    def _add_clock(self, sample: Sample) -> None:
        now = sample.elapsed_seconds or 0.0
        if sample.kinds_of_steps != self._kinds:
            is_first, self._kinds = self._kinds is None, sample.kinds_of_steps
            if not is_first:  # before the first step has ended there is none
                self._changed_at, self.best_clock_mhz, self.steady_clock_mhz = now, None, None
        clock, since = self.clock_mhz(MINUTE_SECONDS), now - self._changed_at
        if clock is not None:
            self.run_best_clock_mhz = max(clock, self.run_best_clock_mhz or 0.0)
            if since >= MINUTE_SECONDS:
                self.best_clock_mhz = max(clock, self.best_clock_mhz or 0.0)
        if self.steady_clock_mhz is None and since >= FIVE_MINUTES_SECONDS:
            self.steady_clock_mhz = self.clock_mhz(FIVE_MINUTES_SECONDS, busy_share=STEADY)

    @property
    def memory_growth_per_hour(self) -> float | None:
        """How fast the memory of this process and those below it grows, as a fraction of what it is: the smaller of the
        slopes of the last hour's halves, so that it must have grown in both; one large allocation is no growth. Slopes
        are those of Theil and Sen, the median over all pairs of points (https://doi.org/10.1080/01621459.1968.10480934).
        None before there is an hour."""
        return self._growth

    def _add_memory(self, sample: Sample) -> None:
        """One point a minute is enough for an hour."""
        if sample.process_rss_bytes is None or sample.elapsed_seconds is None:
            return
        if self._memory and sample.elapsed_seconds - self._memory[-1][0] < MINUTE_SECONDS:
            return
        self._memory.append((sample.elapsed_seconds, float(sample.process_rss_bytes + (sample.workers_rss_bytes or 0))))
        while sample.elapsed_seconds - self._memory[0][0] > HOUR_SECONDS + MINUTE_SECONDS:
            self._memory.popleft()
        if self._memory[-1][0] - self._memory[0][0] >= HOUR_SECONDS:
            points, half = list(self._memory), len(self._memory) // 2
            self._growth = min(relative_slope(points[:half]), relative_slope(points[half:])) * HOUR_SECONDS


def age(sample: Sample, now: Sample) -> float:
    return (now.elapsed_seconds or 0.0) - (sample.elapsed_seconds or 0.0)


def relative_slope(points: Sequence[tuple[float, float]]) -> float:
    """Per second, as a fraction of the median; 0 of fewer than two points."""
    slopes = [(v - u) / (t - s) for i, (t, v) in enumerate(points) for s, u in points[:i]]
    return statistics.median(slopes) / max(statistics.median(value for _, value in points), 1.0) if slopes else 0.0
