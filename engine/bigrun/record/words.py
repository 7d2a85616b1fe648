"""Numbers as a person reads them."""

from __future__ import annotations

from itertools import pairwise

__all__ = ["duration"]

UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
YEARS, YEAR_SECONDS = 1000, 365 * 86_400


def duration(seconds: float) -> str:
    """Two units at most: `2 d 4 h`, `4 min 10 s`, `0 s`; from ten minutes on no seconds. What nobody will live to see,
    or is no number, is `over 1,000 years`."""
    if not seconds < YEARS * YEAR_SECONDS:
        return f"over {YEARS:,} years"
    rest = round(max(seconds, 0.0))
    for (name, size), (smaller, part) in pairwise(UNITS):
        if rest >= size:
            count, left = divmod(rest, size)
            more = left // part
            return f"{count} {name} {more} {smaller}" if more and (size > 60 or count < 10) else f"{count} {name}"
    return f"{rest} s"
