"""One line of what was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

__all__ = ["Row", "Verdict", "judged", "worst"]

Verdict = Literal["ok", "info", "warn", "fail"]
ORDER: tuple[Verdict, ...] = ("ok", "warn", "fail")


@attrs.frozen
class Row:
    """What was looked at, and what was found.

    Raises:
        ValueError: a warning or a failure that says no remedy.
    """

    name: str
    verdict: Verdict
    """`info` is a fact that nothing is expected of; `warn` costs speed or safety; `fail` spoils a run, or ends it."""
    found: str
    expected: str | None = None
    """None where nothing is: a speed of a device that is not listed."""
    remedy: str | None = None
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    """What was measured, as JSON, with the units in the names."""

    def __attrs_post_init__(self) -> None:
        if self.verdict in ("warn", "fail") and not self.remedy:
            raise ValueError(f"{self.name}: {self.verdict} without a remedy")

    def as_facts(self) -> dict[str, Any]:
        """JSON."""
        return {**attrs.asdict(self, recurse=False), "facts": dict(self.facts)}


def judged(
    name: str,
    good: bool,
    found: str,
    expected: str,
    remedy: str,
    *,
    otherwise: Verdict = "warn",
    facts: Mapping[str, Any] | None = None,
) -> Row:
    """`ok`, or `otherwise` with the remedy."""
    return Row(name, "ok" if good else otherwise, found, expected, None if good else remedy, facts or {})


def worst(rows: list[Row]) -> Verdict:
    """The verdict on all of them; `ok` where there is nothing but facts."""
    return ORDER[max((ORDER.index(row.verdict) for row in rows if row.verdict != "info"), default=0)]
