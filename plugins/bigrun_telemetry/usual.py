"""How long steps usually take: what "slow" is compared with."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Hashable, Mapping

import attrs

__all__ = ["Kind", "Spent", "Usual"]

Kind = Hashable
"""What a step computes: steps of one kind take equally long on a machine that is well."""
MINUTE_SECONDS, FIVE_MINUTES_SECONDS, DAY_SECONDS = 60.0, 300.0, 86_400.0
KNOWN_MINUTES = 10
"""Minutes in which steps of a kind have ended, from which on its usual time is known."""
JUDGED = 0.5
"""Share of the time of the last steps that must be of known kinds."""


@attrs.define
class Spent:
    """Steps of one kind, and how long they took together."""

    steps: int = 0
    seconds: float = 0.0

    def add(self, steps: int, seconds: float) -> None:
        self.steps += steps
        self.seconds += seconds


class Usual:
    """Feed it with the steps since the last time, at every tick.

    The usual time of a step of a kind is the median over the minutes of the last 24 hours, of each the mean of its
    steps. So a new kind of step is judged by itself, from its tenth minute on, and a change that nobody knows of is
    the usual after 12 hours; what slows a run down by more than 5 % in 12 hours is found while it does.
    """

    def __init__(self) -> None:
        self._recent: deque[dict[Kind, Spent]] = deque()
        self._recent_seconds = 0.0
        self._minute: dict[Kind, Spent] = {}
        self._minute_at: float | None = None
        self._minutes: dict[Kind, deque[tuple[float, float]]] = {}
        self._seconds: dict[Kind, float] = {}

    def add(self, now: float, spent: Mapping[Kind, Spent]) -> None:
        """
        Args:
            now: seconds on any clock.
            spent: by kind, since the last call.
        """
        if spent:
            self._recent.append(dict(spent))
            self._recent_seconds += seconds_of(spent)
            while self._recent_seconds - seconds_of(self._recent[0]) >= FIVE_MINUTES_SECONDS:
                self._recent_seconds -= seconds_of(self._recent.popleft())
        for kind, more in spent.items():
            self._minute.setdefault(kind, Spent()).add(more.steps, more.seconds)
        if self._minute_at is None:
            self._minute_at = now
        elif now - self._minute_at >= MINUTE_SECONDS:
            self._minute_at = now
            self._end_minute(now)

    def _end_minute(self, now: float) -> None:
        for kind, spent in self._minute.items():
            self._minutes.setdefault(kind, deque()).append((now, spent.seconds / spent.steps))
        self._minute = {}
        self._seconds = {}
        for kind, minutes in list(self._minutes.items()):
            while minutes and minutes[0][0] <= now - DAY_SECONDS:
                minutes.popleft()
            if not minutes:
                del self._minutes[kind]
            elif len(minutes) >= KNOWN_MINUTES:
                self._seconds[kind] = statistics.median(seconds for _, seconds in minutes)

    @property
    def speed_fraction(self) -> float | None:
        """How long the last steps, which took five minutes together, usually take, as a fraction of what they took;
        None before there are five minutes of them, or when most of them are of kinds that are not known yet."""
        if self._recent_seconds < FIVE_MINUTES_SECONDS:
            return None
        expected = taken = 0.0
        for spent in self._recent:
            for kind, part in spent.items():
                if kind in self._seconds:
                    expected += part.steps * self._seconds[kind]
                    taken += part.seconds
        return expected / taken if taken > 0 and taken >= JUDGED * self._recent_seconds else None


def seconds_of(spent: Mapping[Kind, Spent]) -> float:
    return sum(part.seconds for part in spent.values())
