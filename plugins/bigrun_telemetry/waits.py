"""How long a run waits: for images, and for plugins that look at it."""

from __future__ import annotations

import statistics
from collections import deque

__all__ = ["Waits"]

MINUTE_SECONDS, FIVE_MINUTES_SECONDS, DAY_SECONDS = 60.0, 300.0, 86_400.0


class Waits:
    """Feed it with what is known, at every tick."""

    def __init__(self) -> None:
        self._data: deque[tuple[float, float]] = deque()
        self._pauses: deque[tuple[float, float]] = deque()
        self._minutes: deque[tuple[float, float]] = deque()

    def add(self, now: float, data_fraction: float | None, pauses_seconds: float) -> None:
        """
        Args:
            now: seconds on any clock.
            data_fraction: as it was last reported.
            pauses_seconds: of all pauses since the process began.
        """
        self._pauses.append((now, pauses_seconds))
        trim(self._pauses, now - FIVE_MINUTES_SECONDS)
        if data_fraction is None:
            return
        self._data.append((now, data_fraction))
        trim(self._data, now - FIVE_MINUTES_SECONDS)
        if not self._minutes or now - self._minutes[-1][0] >= MINUTE_SECONDS:
            self._minutes.append((now, data_fraction))
            trim(self._minutes, now - DAY_SECONDS)

    @property
    def data_fraction(self) -> float | None:
        """Share of the time for which steps waited for images, mean over five minutes."""
        return statistics.fmean(share for _, share in self._data) if self._data else None

    @property
    def usual_data_fraction(self) -> float | None:
        """Its median over the minutes of the last 24 hours."""
        return statistics.median_low(share for _, share in self._minutes) if self._minutes else None

    @property
    def pause_fraction(self) -> float | None:
        """Share of the last five minutes in which plugins looked at the run."""
        (began, before), (now, after) = self._pauses[0], self._pauses[-1]
        return (after - before) / (now - began) if now > began else None


def trim(points: deque[tuple[float, float]], oldest: float) -> None:
    while points[0][0] < oldest:
        points.popleft()
