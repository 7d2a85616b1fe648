"""Removing checkpoints by hand, by the rule that rotation follows. Torch-free."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import attrs

from bigrun.checkpoint.absence import no_checkpoint
from bigrun.checkpoint.layout import CHECKPOINTS
from bigrun.checkpoint.listing import look
from bigrun.checkpoint.records import verified_records
from bigrun.checkpoint.retention import Policy, reasons_to_stay
from bigrun.checkpoint.space import human_bytes
from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import UsageError
from bigrun.links import refuse_links
from bigrun.lock import RunLock
from bigrun.refusals import reading

__all__ = ["Plan", "plan_pruning", "remove", "unused"]


@attrs.frozen
class Plan:
    """What goes, and why everything else stays."""

    goes: tuple[int, ...]
    """Steps, ascending."""
    bytes: int
    """What is free when it has gone."""
    lines: tuple[str, ...]
    """One for each checkpoint of the run."""


@contextlib.contextmanager
def unused(run: Path) -> Iterator[RunLock]:
    """Hold the lock of a run directory, so that nobody else changes it meanwhile.

    Raises:
        UsageError: it is no run directory.
        RunDirectoryError: a process uses it (with its name).
    """
    with reading(run):
        has_checkpoints = (run / CHECKPOINTS).is_dir()
    if not has_checkpoints:
        raise UsageError(no_checkpoint(run))
    refuse_links(run)
    lock = RunLock(run)
    lock.acquire()
    try:
        yield lock
    finally:
        lock.release()


def plan_pruning(run: Path, policy: Policy) -> Plan:
    """Read every byte of a run's checkpoints, and judge those that are verified. Others are left alone.

    Raises:
        UsageError: it is no run directory, or a step of `policy.milestone_steps` has no checkpoint.
    """
    entries = [entry for entry in look(run) if entry.folder == CHECKPOINTS and entry.step is not None]
    absent = sorted(set(policy.milestone_steps) - {entry.step for entry in entries})
    if absent:
        raise UsageError(f"--keep {absent[0]}: {run} has no checkpoint of step {absent[0]}")
    reasons = reasons_to_stay(verified_records(CheckpointStore(run / CHECKPOINTS)), policy)
    goes = tuple(step for step, why in reasons.items() if not why)
    lines = []
    for entry in entries:
        if entry.step in goes:
            lines.append(f"{entry.name}: goes ({human_bytes(entry.bytes)})")
        else:
            why = reasons.get(entry.step or 0, ["damaged, or of a newer version: it is not judged"])
            lines.append(f"{entry.name}: stays ({'; '.join(why)})")
    return Plan(goes, sum(entry.bytes for entry in entries if entry.step in goes), tuple(lines))


def remove(run: Path, plan: Plan, lock: RunLock) -> None:
    """Remove what goes by a plan, the oldest first.

    Raises:
        RunDirectoryError: somebody else has taken the directory meanwhile.
        CheckpointError: one cannot be removed.
    """
    store = CheckpointStore(run / CHECKPOINTS)
    for step in plan.goes:
        lock.check()
        store.delete(step)
