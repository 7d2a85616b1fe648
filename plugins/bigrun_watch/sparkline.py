"""A curve in one line of text."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["ASCII", "BLOCKS", "sparkline"]

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-=+*#"
"""For a terminal that has no other characters."""
LEAST = 0.02
"""Share of the largest value that the height of a curve is at least."""


def sparkline(steps: Sequence[float], values: Sequence[float], width: int, shades: str = BLOCKS) -> str:
    """The curve in `width` characters: each the mean of the values in its part of the steps, between the smallest and
    the largest of these means, or 2 % of it where they are closer; where there are none, the one before goes on.

    Args:
        steps: ascending, or in a damaged log not, of the same length as `values`, which are finite.
    """
    if not steps or width < 1:
        return ""
    first, length = steps[0], max(steps[-1] - steps[0], 1)
    columns: list[list[float]] = [[] for _ in range(width)]
    for step, value in zip(steps, values, strict=True):
        columns[max(min(int((step - first) / length * width), width - 1), 0)].append(value)
    means = [sum(value / len(column) for value in column) if column else None for column in columns]
    known = [mean for mean in means if mean is not None]
    low, high, line, last = *widened(min(known), max(known)), "", known[0]
    for mean in means:
        last = last if mean is None else mean
        line += shades[shade(last, low, high, len(shades))]
    return line


def widened(low: float, high: float) -> tuple[float, float]:
    """The range of a curve: at least 2 % of its largest value, around its middle, so that what hardly changes does not
    look as if it did."""
    least = LEAST * max(abs(low), abs(high))
    if not 0 < high / 2 - low / 2 < least / 2:
        return low, high
    middle = low / 2 + high / 2
    return middle - least / 2, middle + least / 2


def shade(value: float, low: float, high: float, count: int) -> int:
    """Which of `count` shades; the middle one where all values are the same. Halves, for the difference of two finite
    numbers may be none."""
    span = high / 2 - low / 2
    return min(int((value / 2 - low / 2) / span * count), count - 1) if span > 0 else (count - 1) // 2
