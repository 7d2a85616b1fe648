"""One metric and its band: inside, or outside for how long."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import attrs

__all__ = ["Excursion"]


Change = Literal["left", "back"]


@attrs.define
class Excursion:
    """Leaves after more than `hold_rows` rows outside, and is back after more than `hold_rows` inside: so one row that
    flickers is said neither time."""

    rows: int = 0
    """Rows in succession that contradict `is_out`."""
    is_out: bool = False
    since_step: int | None = None
    """The first row outside, while it is out or may be."""

    def update(self, step: int, value: float, low: float, high: float, hold_rows: int) -> Change | None:
        """What a row has changed. A value that is not finite is outside."""
        outside = not (math.isfinite(value) and low <= value <= high)
        if outside == self.is_out:
            self.rows = 0
            return None
        if outside and self.rows == 0:
            self.since_step = step
        self.rows += 1
        if self.rows <= hold_rows:
            return None
        self.is_out, self.rows = outside, 0
        return "left" if outside else "back"

    def as_json(self) -> dict[str, Any]:
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Excursion:
        since = state["since_step"]
        return cls(int(state["rows"]), bool(state["is_out"]), None if since is None else int(since))
