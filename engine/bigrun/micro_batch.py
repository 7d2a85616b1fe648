"""memory.json: the micro-batch that fits, noted by a process that had no memory for a larger one."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.checkpoint.facts import read_facts
from bigrun.choices import Choice
from bigrun.directory import replace_file
from bigrun.errors import CheckpointError, RunDirectoryError
from bigrun.same_objective import micro_batches_fixed_by

if TYPE_CHECKING:
    from pathlib import Path

    from bigrun.run import Run

__all__ = ["MEMORY", "cannot_halve", "note_micro_batch", "take_noted_micro_batch"]

MEMORY = "memory.json"


def cannot_halve(run: Run) -> str | None:
    """Why half of the micro-batch would be another objective, or none."""
    objective, micro = run.config.objective, run.config.data.micro_batch
    assert micro is not None
    if "objective" in run.config.replaced:
        return f"plugin {run.config.replaced['objective']} brings the objective, which may depend on it"
    if micro % 2:
        return f"it is {micro}"
    if (obstacle := micro_batches_fixed_by(run.config)) is not None:
        return obstacle
    if objective.koleo_weight > 0 and objective.koleo_group and (micro // 2) % objective.koleo_group:
        return f"objective.koleo_group = {objective.koleo_group} does not divide {micro // 2}"
    return None


def note_micro_batch(run: Run, micro: int, step: int) -> str | None:
    """For the processes that continue this run with the same `data.micro_batch`; returns why that cannot be."""
    facts = {"micro_batch": micro, "instead_of": configured(run), "step": step}
    try:
        replace_file(run.directory / MEMORY, json.dumps(facts).encode() + b"\n")
    except (OSError, RunDirectoryError):
        return f"{run.directory / MEMORY} cannot be written"
    return None


def configured(run: Run) -> int | None:
    """`data.micro_batch` as it was before a note was taken."""
    noted = run.get(Noted)
    return run.config.data.micro_batch if noted is None else noted.instead_of


@attrs.frozen
class Noted:
    """A note that is in use."""

    micro_batch: int
    instead_of: int


def take_noted_micro_batch(run: Run) -> None:
    """Use the micro-batch that was noted; a note about another configuration is out of date, and does not count."""
    noted = read_note(run.directory / MEMORY) if run.config.hardware.on_oom == "halve" else None
    data = run.config.data
    if noted is None or data.micro_batch is None or not 0 < noted.micro_batch < data.micro_batch:
        return
    own = data.effective_batch // run.peers.size
    is_asked_for = "data.micro_batch" in run.config.explicit  # else it was chosen, and may be another one each time
    if (is_asked_for and noted.instead_of != data.micro_batch) or own % noted.micro_batch:
        return
    run.put(noted)
    why = f"{noted.instead_of} did not fit into the device's memory, see {MEMORY}"
    choices = tuple(choice for choice in run.config.choices if choice.path != "data.micro_batch")
    run.config = attrs.evolve(
        run.config,
        data=attrs.evolve(data, micro_batch=noted.micro_batch),
        choices=(*choices, Choice("data.micro_batch", noted.micro_batch, why)),
    )


def read_note(path: Path) -> Noted | None:
    if not path.exists():
        return None
    with contextlib.suppress(CheckpointError, RunDirectoryError, KeyError, TypeError, ValueError):
        facts: Any = read_facts(path)
        return Noted(int(facts["micro_batch"]), int(facts["instead_of"]))
    return None
