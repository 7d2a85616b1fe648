"""An event: what happened that is not a number."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Literal

import attrs

__all__ = ["Event", "Level"]

Level = Literal["info", "warning", "error"]


def utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


@attrs.frozen
class Event:
    """One line of the run's story."""

    kind: str
    """A short name to search for, such as `resumed`, `anomaly`, `quarantined`."""
    message: str
    """One sentence for people."""
    step: int
    """Steps taken, or the step being taken, when it happened."""
    level: Level = "info"
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    """JSON values that a program may want."""
    time_utc: str = attrs.field(factory=utc_now)
    """ISO 8601."""
