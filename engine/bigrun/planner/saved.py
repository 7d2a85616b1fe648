"""What a checkpoint of a run takes on the disk, and its copy in host memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.checkpoint.optimizer_state import flatten
from bigrun.planner.host_memory import pinned_bytes
from bigrun.state import frozen_tensors, parameter_names

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["copy_bytes", "saved_bytes"]


def saved_bytes(run: Run) -> list[int]:
    """Of each tensor that `bigrun.state` would save now, in its own type: the optimizer's states as it keeps them, and
    no frozen module without storage. The facts beside them are less than a thousandth."""
    parts = [tensor for part in run.objective.parts().values() for tensor in part.state_dict().values()]
    states, _ = flatten(run.optimizer, parameter_names(run))
    return [tensor.nbytes for tensor in (*parts, *states.values(), *frozen_tensors(run).values())]


def copy_bytes(saved: list[int], device: str) -> int:
    """Of the copy from which a checkpoint is written while training goes on: from a GPU each tensor is copied into
    page-locked memory.

    Args:
        saved: see `saved_bytes`.
        device: `cuda` for any GPU, or `cpu`.
    """
    return sum(saved) if device == "cpu" else sum(map(pinned_bytes, saved))
