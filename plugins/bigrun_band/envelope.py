"""The band around a few curves of one metric, and how far it must reach beyond them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import attrs

from bigrun_band.band import Curve

__all__ = ["Envelope", "chosen_widen", "usual_widen"]

SIGMAS = 3.5
# Expected range of n independent draws of a normal distribution in standard deviations, d2 of control charts.
EXPECTED_RANGE = {2: 1.128, 3: 1.693, 4: 2.059, 5: 2.326, 6: 2.534, 7: 2.704, 8: 2.847, 9: 2.970, 10: 3.078}
DIGITS = 6


@attrs.frozen
class Envelope:
    """Smallest and largest value at each step that all curves have, and what it is widened by."""

    steps: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    spread: tuple[float, ...]
    """What `widen` is a multiple of: the range, or the mean of the ranges of five rows where that is more. Of a few
    runs the range of a single row says little."""
    least: tuple[float, ...]
    """No band is narrower than this to either side: a fraction of the value, or of the whole curve's range."""

    @classmethod
    def of(cls, curves: Sequence[Mapping[int, float]], floor: float) -> Envelope | None:
        """
        Args:
            curves: value by step.
            floor: the fraction.

        Returns:
            None when there is no step that all curves have.
        """
        steps = sorted(set.intersection(*(set(curve) for curve in curves)))
        if not steps:
            return None
        low, high = ([side(curve[step] for curve in curves) for step in steps] for side in (min, max))
        ranges = [b - a for a, b in zip(low, high, strict=True)]
        spread = [max(own, statistics.fmean(ranges[max(i - 2, 0) : i + 3])) for i, own in enumerate(ranges)]
        whole = max(high) - min(low)
        least = [floor * max(abs(a + b) / 2, whole) for a, b in zip(low, high, strict=True)]
        return cls(tuple(steps), tuple(low), tuple(high), tuple(spread), tuple(least))

    def widened(self, widen: float) -> Curve:
        """The band, to six digits."""
        margins = [max(widen * spread, least) for spread, least in zip(self.spread, self.least, strict=True)]
        low = tuple(rounded(a - margin) for a, margin in zip(self.low, margins, strict=True))
        high = tuple(rounded(b + margin) for b, margin in zip(self.high, margins, strict=True))
        return Curve(self.steps, low, high)

    def needed(self, curve: Mapping[int, float]) -> float:
        """How much widening holds another curve inside at every step."""
        rows = zip(self.steps, self.low, self.high, self.spread, self.least, strict=True)
        needed = 0.0
        for step, low, high, spread, least in rows:
            outside = max(low - curve[step], curve[step] - high) if step in curve else 0.0
            if outside > least and spread > 0:
                needed = max(needed, outside / spread)
        return needed


def usual_widen(runs: int) -> float:
    """How many times its own range a band is widened to either side, so that it reaches 3.5 standard deviations.

    Where the runs of a step are draws of a normal distribution, their range is `EXPECTED_RANGE` standard deviations
    wide, half of which lies to either side of the middle: what is missing up to 3.5 is the rest.
    """
    return SIGMAS / EXPECTED_RANGE[min(runs, max(EXPECTED_RANGE))] - 0.5 if runs > 1 else 0.0


def chosen_widen(curves: Sequence[Mapping[int, float]], floor: float) -> float:
    """The larger of `usual_widen` and of what would have held each of these curves in the band of the others.

    The first alone is too little: the range of a few runs is itself uncertain, and a curve is not one draw but many
    that hang together.
    """
    found = usual_widen(len(curves))
    if len(curves) > 2:
        for i, curve in enumerate(curves):
            others = Envelope.of([other for j, other in enumerate(curves) if j != i], floor)
            found = max(found, others.needed(curve) if others is not None else 0.0)
    return round(found, 3) + (0.001 if len(curves) > 1 else 0.0)  # rounded up


def rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
