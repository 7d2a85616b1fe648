"""Numbers, times and durations as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from bigrun.record.words import duration

__all__ = ["clock", "figure", "joined", "moment", "shortened", "since"]

LONGEST = 600
"""Characters of one text that a page shows."""


def figure(value: float) -> str:
    """Four digits."""
    if not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    size = abs(value)
    if value == 0 or (1e-3 <= size < 1e5):
        return f"{value:.4g}"
    return f"{value:,.0f}" if 1e5 <= size < 1e9 and value == round(value) else f"{value:.3g}"


def moment(text: object) -> datetime | None:
    """A time that a file says in ISO 8601, in UTC; None for what is none, or in UTC before the year 1 or after 9999."""
    try:
        time = datetime.fromisoformat(str(text))
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def clock(time: datetime | None) -> str:
    return "unknown" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def since(time: datetime | None, now: datetime) -> str:
    return "at an unknown time" if time is None else f"{duration((now - time).total_seconds())} ago"


def shortened(text: str, most: int = LONGEST) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def joined(words: Sequence[str], most: int = 8) -> str:
    """Words with commas; how many more there are."""
    more = f" and {len(words) - most:,} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
