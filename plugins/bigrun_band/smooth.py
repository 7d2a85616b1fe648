"""The same smoothing for what makes a band and for what is compared with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

__all__ = ["Trailing"]


class Trailing:
    """Mean over the values of the last so many steps: of the past alone, for a run knows no other."""

    def __init__(self, steps: int, points: Iterable[Sequence[float]] = ()) -> None:
        """
        Args:
            points: (step, value) that were seen already, ascending.
        """
        self.steps = steps
        self.points: list[tuple[int, float]] = [(int(step), float(value)) for step, value in points]

    def add(self, step: int, value: float) -> float:
        """Take a value, and give the mean; not finite while a value of these steps is not."""
        self.points = [(s, v) for s, v in self.points if step - self.steps < s < step]
        self.points.append((step, value))
        return math.fsum(v for _, v in self.points) / len(self.points) if self.is_finite() else math.nan

    def is_finite(self) -> bool:
        return all(math.isfinite(value) for _, value in self.points)
