"""Which checkpoints stay: the one rule that everybody follows who removes some. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from bigrun.checkpoint.records import Record

__all__ = ["NEWEST", "Policy", "reasons_to_stay"]

NEWEST = 2
"""So many stay whatever a policy says: the newest may turn out to be of a network that has just gone wrong."""


@attrs.frozen
class Policy:
    """What stays besides the newest two."""

    keep_last: int = NEWEST
    milestones_every_steps: int | None = None
    milestone_steps: Collection[int] = ()
    keep_healthy: bool = True
    """The newest one before which no anomaly was reported."""
    best_by: str | None = None
    """A metric."""
    best: Literal["min", "max"] = "min"
    keep_best: int = 1

    def is_milestone(self, step: int) -> bool:
        every = self.milestones_every_steps
        return step in self.milestone_steps or (every is not None and step > 0 and step % every == 0)


def reasons_to_stay(records: Collection[Record], policy: Policy) -> dict[int, list[str]]:
    """For each step, ascending, why its checkpoint stays; one without a reason may go.

    Each reason holds among those that remain, too: to apply the policy twice, or after every save instead of once at
    the end, leaves the same checkpoints, but for trouble that is found long after its onset. Of two that are equally
    good the older one is the better.

    Args:
        records: the verified checkpoints. Others must not be given: they do not count, and are not judged.
    """
    ordered = sorted(records, key=lambda record: record.step)
    reasons: dict[int, list[str]] = {record.step: [] for record in ordered}
    count = max(policy.keep_last, NEWEST)
    for record in ordered[-count:]:
        reasons[record.step].append(f"one of the newest {count}")
    for record in ordered:
        if policy.is_milestone(record.step):
            reasons[record.step].append("a milestone")
    healthy = last_healthy(ordered)
    if policy.keep_healthy and healthy is not None:
        reasons[healthy].append("the last healthy one")
    if policy.best_by is not None:
        for rank, (value, step) in enumerate(ranking(ordered, policy.best_by, policy.best)[: policy.keep_best], 1):
            reasons[step].append(f"number {rank} by {policy.best_by} ({value:.6g})")
    return reasons


def last_healthy(records: Sequence[Record]) -> int | None:
    """The newest step, of records in ascending order, before which nothing was reported and of which no later one says
    that the trouble had begun by then."""
    onset: float = math.inf
    for record in reversed(records):
        onset = min(onset, math.inf if record.onset is None else record.onset)
        if record.is_healthy and record.step < onset:
            return record.step
    return None


def ranking(records: Collection[Record], metric: str, best: Literal["min", "max"]) -> list[tuple[float, int]]:
    """(value, step) of every checkpoint that has the metric, the best first."""
    sign = 1 if best == "min" else -1
    values = [(record.measured[metric], record.step) for record in records if metric in record.measured]
    return sorted(values, key=lambda pair: (sign * pair[0], pair[1]))
