"""From values to places on a chart, and where its lines of a grid lie."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import attrs
import numpy as np

from bigrun_report.figures import figure
from bigrun_report.series import Numbers

__all__ = ["LEAST_RANGE", "Kind", "Scale", "count_label", "fitting"]

Kind = Literal["linear", "log"]
LEAST_RANGE = 0.02
"""Of the largest value: an axis of less would make a cliff of a fall from 1 to 0.99998."""
LARGEST = 1e300
"""So that the height of a chart is finite."""


@attrs.frozen
class Scale:
    """A range of values, shown on [start, end] px."""

    low: float
    high: float
    start: float
    end: float
    kind: Kind = "linear"
    widened: tuple[float, float] | None = None
    """The values' own range, where the axis is wider than they need."""

    def places(self, values: Numbers) -> Numbers:
        """Places in px, (n,) of (n,), within the chart."""
        low, high = self._bend(np.array([self.low, self.high]))
        share = (self._bend(np.clip(values, self.low, self.high)) - low) / (high - low)
        placed: Numbers = self.start + share * (self.end - self.start)
        return placed

    def place(self, value: float) -> float:
        return float(self.places(np.array([value]))[0])

    def _bend(self, values: Numbers) -> Numbers:
        if self.kind == "linear":
            return values
        return np.log10(values)

    def ticks(self, wanted: int) -> list[float]:
        """Round values, about as many as wanted."""
        if self.kind == "linear":
            return linear_ticks(self.low, self.high, wanted)
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        decades = last - first + 1
        if decades >= 2:
            every = max(1, math.ceil(decades / wanted))
            return [10.0**power for power in range(first, last + 1, every)]
        return linear_ticks(self.low, self.high, wanted)


def linear_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten."""
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.7), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) if step > 1e-9 else n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def fitting(values: Iterable[float], kind: Kind, start: float, end: float, *, least: float = 0.0) -> Scale:
    """The scale that shows all of the finite values, with some air; a logarithmic one shows the positive ones, and is
    linear where there is none.

    Args:
        least: so much of the largest value is the range of a linear one at least.
    """
    known = [min(max(value, -LARGEST), LARGEST) for value in values if math.isfinite(value)]
    positive = [value for value in known if value > 0]
    if kind == "log" and positive:
        low, high = min(positive), max(positive)
        low = max(low / 1.3, 1 / LARGEST)
        return Scale(low, max(high * 1.3, low * 10), start, end, "log")
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    span, wanted = high - low, least * max(abs(low), abs(high))
    if 0 < span < wanted:
        air = (wanted - span) / 2
        return Scale(low - air, high + air, start, end, widened=(low, high))
    air = span * 0.06 or abs(high) * 0.1 or 1.0
    below = 0.0 if 0 <= low <= air else low - air
    return Scale(below, high + air, start, end)


def count_label(value: float) -> str:
    """A count on an axis: 1,500, 20k, 1.5M."""
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:,.10g}"


def value_labels(ticks: Sequence[float]) -> list[str]:
    """Labels of values, with as many digits as tell them apart."""
    labels = [figure(tick) for tick in ticks]
    for digits in range(5, 12):
        if len(set(labels)) == len(ticks):
            break
        labels = [f"{tick:.{digits}g}" for tick in ticks]
    return labels
