"""What was wrong with the steps of a run, as far as later steps and checkpoints need to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bigrun.anomaly import Anomaly

__all__ = ["Incidents"]


class Incidents:
    """The anomalies that wait for an answer, and what past ones have left."""

    def __init__(self) -> None:
        self.reported: list[Anomaly] = []
        """Not answered yet."""
        self.since_checkpoint: list[str] = []
        """Kinds reported since the newest checkpoint; one saved while there is none is healthy."""
        self.skipped_in_a_row = 0
        self.rollbacks: list[dict[str, Any]] = []
        """`from_step`, `to_step` and `kind` of every roll back, in order."""

    def report(self, anomaly: Anomaly) -> None:
        self.reported.append(anomaly)
        if anomaly.kind not in self.since_checkpoint:
            self.since_checkpoint.append(anomaly.kind)

    def take(self) -> list[Anomaly]:
        """What was reported, which is answered with that."""
        reported, self.reported = self.reported, []
        return reported

    def rollbacks_within(self, steps: int, step: int) -> int:
        """How many roll backs began in the last so many steps before `step`, or beyond it."""
        return sum(rollback["from_step"] > step - steps for rollback in self.rollbacks)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of them: see `restore`."""
        return {
            "anomalies": list(self.since_checkpoint),
            "rollbacks": list(self.rollbacks),
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a checkpoint's facts; older ones know of no roll backs."""
        self.skipped_in_a_row = state["skipped_in_a_row"]
        self.rollbacks = list(state.get("rollbacks", []))
