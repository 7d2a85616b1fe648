"""What a checkpoint says of itself, as far as somebody must know who chooses among several. Torch-free."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import attrs

from bigrun.checkpoint.facts import load_facts
from bigrun.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from bigrun.checkpoint.store import CheckpointStore

__all__ = ["Record", "read_record", "verified_records"]


@attrs.frozen
class Record:
    """One checkpoint."""

    step: int
    anomalies: tuple[str, ...] = ()
    """Kinds of the anomalies that were reported since the checkpoint before it."""
    measured: Mapping[str, float] = attrs.field(factory=dict)
    """The newest metrics when it was saved."""
    onset: int | None = None
    """The first step in which one of these anomalies showed, or of those just before them; it may be long ago."""

    @property
    def is_healthy(self) -> bool:
        return not self.anomalies


def read_record(checkpoint: Path, step: int) -> Record:
    """The record of the checkpoint in a directory; whatever its facts do not say, or say in another form, is absent.

    Raises:
        CheckpointError: it has no facts, or they cannot be read.
    """
    state = load_facts(checkpoint, "state")
    facts = state if isinstance(state, dict) else {}
    anomalies, onset, measured = facts.get("anomalies"), facts.get("anomaly_onset"), facts.get("measured")
    return Record(
        step,
        tuple(str(kind) for kind in anomalies) if isinstance(anomalies, list) else (),
        {name: value for name, value in measured.items() if is_number(value)} if isinstance(measured, dict) else {},
        onset if type(onset) is int else None,
    )


def is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def verified_records(store: CheckpointStore, steps: Collection[int] | None = None) -> list[Record]:
    """Every verified checkpoint of a store, in ascending order, or those of `steps`. One whose facts cannot be read at
    the moment is not among them: nobody knows what it is, so it does not count, and is not removed."""
    records = []
    for step in store.verified_steps() if steps is None else steps:
        with contextlib.suppress(CheckpointError):
            records.append(read_record(store.path(step), step))
    return records
