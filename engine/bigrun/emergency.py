"""Emergency checkpoints: the state in which an anomaly found the run, before an update that should not be made, and how
it came there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from bigrun.checkpoint.layout import EMERGENCY, MANIFEST
from bigrun.checkpoint.space import require_room
from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import CheckpointError
from bigrun.flight import FLIGHT
from bigrun.peers.peers import Peers, SaidElsewhere

if TYPE_CHECKING:
    from pathlib import Path

    from bigrun.anomaly import Anomaly
    from bigrun.run import Run

__all__ = ["ANOMALY", "by_age", "keep_emergency"]

ANOMALY = "anomaly"
"""Name of the diagnosis among the facts of an emergency checkpoint."""
KEPT = 2


def keep_emergency(run: Run, anomaly: Anomaly, flight: list[dict[str, Any]]) -> Path | None:
    """Save the state before the update, the diagnosis and the flight record; None, and an event, where the disk
    refuses. The newest two of a run are kept. All processes call it; those save that have a part of the state."""
    from bigrun.state import gather_state

    if not (run.is_main or run.strategy.is_sharded):
        return None
    writers = run.peers if run.strategy.is_sharded else Peers()
    activity, run.activity = run.activity, "checkpoint"
    store = CheckpointStore(run.directory / EMERGENCY, before_publishing=run.checkpoints.before_publishing)
    state = gather_state(run)
    facts = {**state.facts, FLIGHT: flight, ANOMALY: as_facts(anomaly)}
    try:
        writers.by_main(lambda: require_room(store.directory, state.bytes))
        path = attrs.evolve(state, facts=facts).save(store, writers)
    except SaidElsewhere:
        return None
    except CheckpointError as error:
        run.event("emergency-failed", f"no emergency checkpoint could be kept: {error}", "error")
        return None
    finally:
        run.activity = activity
    if not run.is_main:
        return path
    keep_newest(run, store)
    run.event(
        "emergency-saved",
        f"the state after step {run.step} is kept as an emergency checkpoint: {path}",
        "warning",
        path=str(path),
        anomaly=anomaly.kind,
    )
    return path


def keep_newest(run: Run, store: CheckpointStore) -> None:
    try:
        for old in by_age(store)[:-KEPT]:
            store.delete(old)
    except (CheckpointError, OSError) as error:
        run.event("emergency-not-removed", f"an older emergency checkpoint could not be removed: {error}", "warning")


def by_age(store: CheckpointStore) -> list[int]:
    """The steps of the emergency checkpoints in the order in which they were saved: a run that went back may keep a
    younger one of an older step."""
    return sorted(store.steps(), key=lambda step: (store.path(step) / MANIFEST).stat().st_mtime_ns)


def as_facts(anomaly: Anomaly) -> dict[str, object]:
    """A diagnosis as JSON, which has neither tuples nor numbers that are not finite."""
    facts = attrs.asdict(anomaly)
    evidence = {name: value if isinstance(value, str) else f"{value:.6g}" for name, value in anomaly.evidence.items()}
    return {**facts, "evidence": evidence, "causes": list(anomaly.causes), "advice": list(anomaly.advice)}
