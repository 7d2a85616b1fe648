"""Robust statistics of the last accepted values: a median and a spread that a few outliers cannot move."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence

import attrs

__all__ = ["Deviation", "Window"]

NORMAL = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@attrs.frozen
class Deviation:
    """How far a value is above a window."""

    median: float
    z: float
    """In robust standard deviations; of logarithms where all values are positive."""


class Window:
    """The newest `length` values that were accepted; nothing else is remembered."""

    def __init__(self, length: int, values: Iterable[float] = ()) -> None:
        self.values: deque[float] = deque(values, maxlen=length)

    def __len__(self) -> int:
        return len(self.values)

    def accept(self, value: float) -> None:
        self.values.append(value)

    def median(self) -> float:
        """0 when there is nothing yet."""
        return statistics.median(self.values) if self.values else 0.0

    def deviation(self, value: float, factor: float, z: float) -> Deviation:
        """How far `value` is above the median.

        The spread is the median absolute deviation, and never less than what makes `factor` times the median z
        deviations: where values hardly vary, a small change is no spike.
        """
        is_log = value > 0 and min(self.values) > 0
        scale: Sequence[float] = [math.log(v) for v in self.values] if is_log else list(self.values)
        middle = statistics.median(scale)
        floor = math.log(factor) if is_log else (factor - 1) * max(abs(middle), 1.0)
        spread = max(NORMAL * statistics.median(abs(v - middle) for v in scale), floor / z)
        return Deviation(
            median=math.exp(middle) if is_log else middle,
            z=((math.log(value) if is_log else value) - middle) / spread,
        )
