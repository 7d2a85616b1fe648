"""What memory of a run could be spared whatever its micro-batch is: by tensors, which are looked at and not read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import attrs

from bigrun.planner.sizes import human_gib

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.run import Run

__all__ = ["Saving", "savings_line", "savings_of"]

STATES = {"bf16": 4.0, "8 bits": 2.03}
"""Bytes of AdamW's two averages for a trained parameter; 8 in fp32. With 8 bits each block of 256 has a scale."""
WORTH_BYTES = 2**20


@attrs.frozen
class Saving:
    """One way."""

    what: str
    bytes: int


def savings_of(run: Run, is_on_device: Callable[[Tensor], bool]) -> tuple[Saving, ...]:
    """What docs/how-to/save-memory.md would spare of this run, and is not done yet; less than 1 MiB is not worth it.

    Args:
        is_on_device: whether a tensor takes the device's memory.
    """
    found = [*of_states(run), *of_teacher(run, is_on_device), *of_frozen(run)]
    return tuple(saving for saving in found if saving.bytes >= WORTH_BYTES)


def savings_line(savings: Iterable[Saving]) -> str | None:
    """For people; None where nothing can be spared."""
    said = ", ".join(f"{saving.what} {human_gib(saving.bytes)} less" for saving in savings)
    return f"whatever the micro-batch is: {said} (docs/how-to/save-memory.md)" if said else None


def of_states(run: Run) -> Iterator[Saving]:
    from bigrun.checkpoint.optimizer_state import expected_state_bytes

    trained = sum(p.numel() for group in run.optimizer.param_groups for p in group["params"])
    now = expected_state_bytes(run.optimizer)
    for name, each in STATES.items():
        if trained and now / trained > 1.2 * each:
            yield Saving(f"states of the optimizer in {name}", round(now - each * trained))


def of_teacher(run: Run, is_on_device: Callable[[Tensor], bool]) -> Iterator[Saving]:
    teacher = run.objective.teacher
    if teacher is run.objective.student or run.facts.is_unified:  # where the host's memory is no other one
        return
    here = sum(p.nbytes for p in teacher.backbone.parameters() if is_on_device(p))
    yield Saving("the teacher in host memory", here)


def of_frozen(run: Run) -> Iterator[Saving]:
    import torch

    tensors = [p for module in run.frozen.values() for p in module.parameters() if not p.is_meta]
    full = sum(p.nbytes for p in tensors if p.dtype == torch.float32)
    yield Saving("frozen networks in bf16", full // 2)
