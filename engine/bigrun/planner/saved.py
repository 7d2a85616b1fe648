"""What a checkpoint of a run takes on the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.checkpoint.optimizer_state import flatten
from bigrun.checkpoint.staging import count_bytes
from bigrun.state import frozen_tensors, parameter_names

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["saved_bytes"]


def saved_bytes(run: Run) -> int:
    """Of the tensors that `bigrun.state` would save now, in their own types: the optimizer's states as it keeps them,
    and no frozen module without storage. The facts beside them are less than a thousandth."""
    parts = [tensor for part in run.objective.parts().values() for tensor in part.state_dict().values()]
    states, _ = flatten(run.optimizer, parameter_names(run))
    return count_bytes([*parts, *states.values(), *frozen_tensors(run).values()])
