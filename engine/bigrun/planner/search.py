"""The largest size whose need is within a limit, where asking for a need takes long."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["largest_fitting"]


def largest_fitting(sizes: Sequence[int], need: Callable[[int], float], limit: float, start: int) -> int | None:
    """The largest size with need(size) <= limit; None when there is none.

    Both the answer and the size above it have been asked for, so a need that is not a straight line costs questions,
    never the answer.

    Args:
        sizes: rising.
        need: must not fall with the size; takes long.
        start: the size to ask first; the nearest in `sizes` is taken.
    """
    asked: dict[int, float] = {}
    low, high = -1, len(sizes)  # sizes[low] fits, sizes[high] does not
    place = min(range(len(sizes)), key=lambda i: abs(sizes[i] - start), default=0)
    while high - low > 1:
        asked[sizes[place]] = need(sizes[place])
        if asked[sizes[place]] <= limit:
            low = place
        else:
            high = place
        guess = expected(asked, limit)
        place = max((i for i, size in enumerate(sizes) if size <= guess), default=0)
        place = min(max(place, low + 1), high - 1)
    return sizes[low] if low >= 0 else None


def expected(asked: dict[int, float], limit: float) -> float:
    """The size that reaches the limit, on the straight line through the two answers nearest to it.

    One answer alone says in which direction to go: a quarter of the size, or four times as much.
    """
    nearest = sorted(asked, key=lambda size: abs(asked[size] - limit))[:2]
    if len(nearest) == 1:
        return nearest[0] * (4 if asked[nearest[0]] <= limit else 0.25)
    a, b = sorted(nearest)
    slope = (asked[b] - asked[a]) / (b - a)
    return a + (limit - asked[a]) / slope if slope > 0 else float("inf")
