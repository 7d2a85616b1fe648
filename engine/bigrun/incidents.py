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
        self.onset: int | None = None
        """First step in which one of these showed, or of those just before them."""
        self.skipped_in_a_row = 0
        self.rollbacks: list[dict[str, Any]] = []
        """`from_step`, `to_step` and `kind` of every roll back, in order."""

    def report(self, anomaly: Anomaly) -> None:
        self.reported.append(anomaly)
        self.note(anomaly)

    def note(self, anomaly: Anomaly) -> None:
        """The next checkpoint is to say so."""
        if anomaly.kind not in self.since_checkpoint:
            self.since_checkpoint.append(anomaly.kind)
        onset = anomaly.step if anomaly.onset is None else anomaly.onset
        self.onset = onset if self.onset is None else min(self.onset, onset)

    def begin_interval(self) -> list[str]:
        """A checkpoint says what was reported until now; returns the kinds. The onset stays while the trouble does."""
        reported, self.since_checkpoint = self.since_checkpoint, []
        if not reported:
            self.onset = None
        return reported

    def give_back(self, reported: list[str]) -> None:
        """The checkpoint that was to say this has not come to be."""
        since = self.since_checkpoint
        since[:0] = [kind for kind in reported if kind not in since]

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
            "anomaly_onset": self.onset if self.since_checkpoint else None,
            "rollbacks": list(self.rollbacks),
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a checkpoint's facts; older ones know of no roll backs."""
        self.skipped_in_a_row = state["skipped_in_a_row"]
        self.rollbacks = list(state.get("rollbacks", []))
        self.onset = state.get("anomaly_onset")
