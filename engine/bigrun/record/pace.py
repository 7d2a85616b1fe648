"""How fast a run is now, as the newest rows of its metrics tell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import attrs

__all__ = ["Pace", "number", "pace_of", "whole"]

Row = Mapping[str, Any]
RECENT_SECONDS = 600.0
RECENT_ROWS = 20
"""The newest rows count that took ten minutes together, and 20 if those took longer: a save or a picture, which come
every so many steps, has its share in them."""
MOST_ROWS = 2000
SLOWEST, FASTEST = 1e-9, 1e9
"""Steps a second; what is beyond was never measured."""
MOST = 2**53
"""Whole numbers from here on are no counts: not all of them are numbers of a float either."""


@attrs.frozen
class Pace:
    """Means over the newest rows, by the time that each took. None is not known."""

    rows: int = 0
    seconds: float = 0.0
    """That these rows took together."""
    steps_per_second: float | None = None
    images_per_second: float | None = None
    data_wait_fraction: float | None = None


def pace_of(rows: Sequence[Row], after_step: int = 0) -> Pace:
    """The pace in the newest rows.

    Args:
        after_step: where the process began. Its first row has the start of the workers in it, and does not count unless
            it is all there is.
    """
    fresh = [row for row in rows[-MOST_ROWS:] if row["step"] > after_step]
    pairs: Iterable[tuple[Row, Row]] = pairwise(fresh) if len(fresh) > 1 else [({"step": after_step}, r) for r in fresh]
    known: list[tuple[Row, float]] = []
    steps, seconds = 0, 0.0
    for older, newer in reversed(list(pairs)):
        count, rate = newer["step"] - older["step"], number(newer, "steps_per_second")
        # At 0 all of its steps were skipped: nobody knows how long they took.
        if rate is None or not SLOWEST <= rate <= FASTEST or count <= 0:
            continue
        known.append((newer, count / rate))
        steps, seconds = steps + count, seconds + count / rate
        if seconds >= RECENT_SECONDS and len(known) >= RECENT_ROWS:
            break
    if not known:
        return Pace()
    means = {name: mean(known, name) for name in ("images_per_second", "data_wait_fraction")}
    return Pace(len(known), seconds, steps / seconds, **means)


def mean(known: Sequence[tuple[Row, float]], name: str) -> float | None:
    values = [(value, seconds) for row, seconds in known if (value := number(row, name)) is not None]
    total = sum(seconds for _, seconds in values)
    found = sum(value * (seconds / total) for value, seconds in values) if total else math.inf
    return found if math.isfinite(found) else None


def number(row: Row, name: str) -> float | None:
    """A finite number of a row; None where there is none: one that is not finite is a text in the log."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of 400 digits
        return None


def whole(value: Any) -> int | None:
    """A count, as a step is: a whole number from 0 to 2**53; None where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST else None
