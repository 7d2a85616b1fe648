"""The flags that are up, and what has changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs

from bigrun.events import Event
from bigrun_telemetry.flags import HUNG, Finding

__all__ = ["Board", "Change", "Raised"]

QUIET_SECONDS = 300.0
"""A flag comes down when nothing has been found for so long, so that one that flickers is said once."""
LEVELS = ("info", "warning", "error")


@attrs.frozen
class Change:
    """A flag went up, became worse, or came down."""

    state: Literal["began", "worse", "ended"]
    finding: Finding
    seconds: float
    """How long it has been up."""

    def event(self) -> Event:
        """The event that tells of it; its step is for the run to say."""
        finding = self.finding
        facts = {"flag": finding.flag, "state": self.state, "seconds": round(self.seconds), **finding.facts}
        if self.state == "ended":
            message = f"{finding.flag} is over, after {self.seconds:.0f} s; at last: {finding.message}"
            return Event("telemetry-flag", message, 0, "info", facts)
        return Event("telemetry-flag", f"{finding.flag}: {finding.message}", 0, finding.level, facts)


@attrs.define
class Raised:
    """A flag that is up."""

    finding: Finding
    since: float
    seen: float
    worst: int


class Board:
    """Feed it with the findings of every sample."""

    def __init__(self) -> None:
        self._up: dict[str, Raised] = {}

    @property
    def up(self) -> Sequence[Finding]:
        """The flags that are up, by name."""
        return [self._up[name].finding for name in sorted(self._up)]

    def update(self, findings: Sequence[Finding], elapsed_seconds: float) -> list[Change]:
        """What has changed since the last sample."""
        changes: list[Change] = []
        for finding in findings:
            rank, raised = LEVELS.index(finding.level), self._up.get(finding.flag)
            if raised is None:
                self._up[finding.flag] = Raised(finding, elapsed_seconds, elapsed_seconds, rank)
                changes.append(Change("began", finding, 0.0))
                continue
            if rank > raised.worst:
                changes.append(Change("worse", finding, elapsed_seconds - raised.since))
            raised.finding, raised.seen, raised.worst = finding, elapsed_seconds, max(rank, raised.worst)
        for name, raised in list(self._up.items()):
            quiet = 0.0 if name == HUNG else QUIET_SECONDS  # a step is over, or it is not
            if elapsed_seconds > raised.seen and elapsed_seconds - raised.seen >= quiet:
                del self._up[name]
                changes.append(Change("ended", raised.finding, raised.seen - raised.since))
        return changes
