"""checkpoint-rotation: keep the newest checkpoints and those that somebody may want back, remove the others."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs

from bigrun import hookimpl, option
from bigrun.checkpoint.records import Record, verified_records
from bigrun.checkpoint.retention import NEWEST, Policy, reasons_to_stay
from bigrun.checkpoint.space import RESERVE_BYTES, free_bytes
from bigrun.errors import CheckpointError
from bigrun.options import at_least
from bigrun.values import did_you_mean

if TYPE_CHECKING:
    from bigrun.events import Event
    from bigrun.run import Run

__all__ = ["CheckpointRotation"]


def ascending_steps(steps: tuple[int, ...]) -> str | None:
    """Steps from 1, in ascending order."""
    if all(a < b for a, b in zip((0, *steps), steps, strict=False)):
        return None
    return f"expected steps from 1, in ascending order, got {list(steps)}"


def names_a_metric(config: RotationConfig) -> bool:
    return config.best_by is not None


NO_METRIC = "best_by names no metric"


@attrs.frozen
class RotationConfig:
    """Which checkpoints stay."""

    keep_last: int = option(3, check=at_least(2), help="The newest so many checkpoints stay; at least 2.")
    milestones_every_steps: int | None = option(
        None, check=at_least(1), help="A checkpoint of every so many steps is made and stays."
    )
    milestone_steps: tuple[int, ...] = option(
        (), check=ascending_steps, help="Checkpoints of these steps are made and stay."
    )
    keep_healthy: bool = option(True, help="The last checkpoint before which no anomaly was reported stays.")
    best_by: str | None = option(
        None, help="The best checkpoints by this metric stay; those count in whose step it was logged or measured."
    )
    best: Literal["min", "max"] = option(
        "min",
        effective=names_a_metric,
        otherwise=NO_METRIC,
        help="Whether a small or a large value of `best_by` is good.",
    )
    keep_best: int = option(
        1, check=at_least(1), effective=names_a_metric, otherwise=NO_METRIC, help="So many of the best stay."
    )

    @property
    def policy(self) -> Policy:
        return Policy(
            keep_last=self.keep_last,
            milestones_every_steps=self.milestones_every_steps,
            milestone_steps=frozenset(self.milestone_steps),
            keep_healthy=self.keep_healthy,
            best_by=self.best_by,
            best=self.best,
            keep_best=self.keep_best,
        )


class CheckpointRotation:
    """Acts after a new checkpoint is verified, and removes one at a time by a rename, so a kill at any moment leaves at
    least `keep_last` of them. One that cannot be removed is tried again after the next save.

    On a disk with no room for `keep_last` and a new one, it keeps the newest two: the run is worth more than a copy.
    """

    Config = RotationConfig
    observer = True

    def __init__(self, config: RotationConfig) -> None:
        self.policy = config.policy
        self._missed = False

    @hookimpl
    def on_start(self, run: Run) -> None:
        if run.room is None or self.policy.keep_last == NEWEST:
            return
        there = len(run.checkpoints.steps())
        room, wanted = run.room.count + there, run.room.wanted
        if room <= self.policy.keep_last and (wanted is None or there + wanted > room):
            self._keep_fewer(run, f"there is room for {room} checkpoints")

    @hookimpl
    def on_event(self, run: Run, event: Event) -> None:
        """A save for which there was no room: the next one finds some."""
        if event.kind == "checkpoint-failed" and self.policy.keep_last > NEWEST and is_full(run, event):
            self._keep_fewer(run, "there was no room for a new checkpoint")
            self._rotate(run, run.saved_step or 0)

    def _keep_fewer(self, run: Run, why: str) -> None:
        run.event(
            "checkpoints-fewer",
            f"{why}: with keep_last = {self.policy.keep_last} none could be saved any more, so the newest {NEWEST} "
            "stay from now on; make room and start the run again, or set keep_last = 2",
            level="warning",
            keep_last=NEWEST,
        )
        self.policy = attrs.evolve(self.policy, keep_last=NEWEST)

    @hookimpl(tryfirst=True)
    def after_step(self, run: Run, step: int) -> None:
        """Before others, so that whoever measures for every checkpoint knows of this one."""
        if self.policy.is_milestone(step):
            run.request_checkpoint("a milestone", by_all=True)

    @hookimpl
    def on_checkpoint(self, run: Run, step: int, path: Path) -> None:
        self._rotate(run, step)

    def _rotate(self, run: Run, step: int) -> None:
        # Anything newer than the checkpoint just verified is not ours to judge, nor what the engine has not read yet:
        # it reads older ones behind the first save of a process.
        try:
            known = [old for old in run.checkpoints.known_steps() if old <= step]
        except OSError as error:  # of a network disk; the next save finds them
            run.event("checkpoint-not-removed", f"older checkpoints cannot be listed: {error}", level="warning")
            return
        records = verified_records(run.checkpoints, known)
        self._miss_metric(run, records)
        for old, reasons in reasons_to_stay(records, self.policy).items():
            if not reasons:
                self._remove(run, old)

    def _remove(self, run: Run, old: int) -> None:
        try:
            run.checkpoints.delete(old)
        except CheckpointError as error:  # a busy network disk must not end rotation: the disk would fill
            run.event("checkpoint-not-removed", str(error), level="warning", step_to_remove=old)
        else:
            run.event("checkpoint-removed", f"removed the checkpoint of step {old}", removed_step=old)

    def _miss_metric(self, run: Run, records: Collection[Record]) -> None:
        """Say once that none can be the best because none has the metric."""
        measured = {name for record in records for name in record.measured}
        metric = self.policy.best_by
        if metric is not None and measured and metric not in measured and not self._missed:
            self._missed = True
            run.event(
                "checkpoint-metric-missing",
                f"best_by = {metric!r}: no checkpoint was saved when it had just been logged, so none is kept as the "
                f"best{did_you_mean(metric, measured)}",
                level="warning",
                metric=metric,
            )


def is_full(run: Run, event: Event) -> bool:
    """Whether the disk has less room than the checkpoint that failed takes."""
    try:
        return free_bytes(run.checkpoints.directory) < int(event.facts["checkpoint_bytes"]) + RESERVE_BYTES
    except OSError:
        return False
