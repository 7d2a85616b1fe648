"""What one look at the networks has found."""

from __future__ import annotations

import math

import attrs

__all__ = ["Measured"]

ENOUGH = 1024
FALLEN = 0.5
"""Of the best `rank_fraction` of the run: below this share it has fallen."""


@attrs.frozen
class Measured:
    """Of one step; an indicator that is not known is absent."""

    values: dict[str, float]
    """By the indicator's name."""
    images: int
    """That could be read."""
    width: int
    """Of a class token."""
    prototypes: int | None = None
    """None where the objective tells of none."""
    best_rank_fraction: float | None = None
    """The highest of the looks that were judged until now, this one included."""

    def finite(self) -> dict[str, float]:
        return {name: value for name, value in self.values.items() if math.isfinite(value)}

    @property
    def images_for_rank(self) -> int:
        """Fewer say too little of the rank of all features: their own number bounds it."""
        return min(ENOUGH, self.width)

    @property
    def has_enough(self) -> bool:
        return self.images >= self.images_for_rank

    def least_rank_fraction(self, limit: float) -> float:
        """Below this it warns: the limit, and what would be a fall where the run's best is not far above that. Some
        healthy small runs stay at 0.08 (docs/how-to/see-that-it-learns.md)."""
        return limit if self.best_rank_fraction is None else min(limit, FALLEN * self.best_rank_fraction)

    @property
    def entropy_floor_fraction(self) -> float:
        """ln(K / n) / ln K: balanced targets of n rows cannot be sharper [spec 10.2]."""
        if self.prototypes is None:
            return 0.0
        return max(math.log(self.prototypes / self.images), 0.0) / math.log(self.prototypes)

    @property
    def marginal_ceiling_fraction(self) -> float:
        """What the entropy of the mean of n targets can be, over ln K: at most ln n more than their mean entropy."""
        if self.prototypes is None:
            return 1.0
        known = self.values.get("target_entropy_fraction", 1.0)
        return min(known + math.log(self.images) / math.log(self.prototypes), 1.0)
