"""A run that is continued with averages in another format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bigrun.checkpoint.optimizer_state import expected_state_bytes
from bigrun.errors import CheckpointError
from bigrun.optimizer import build_adamw
from bigrun_savers.adamw import AdamW8bit, AdamWBf16, CompactAdamW, portions
from bigrun_savers.config import States
from bigrun_savers.formats import MOMENTS, Float32, Format

if TYPE_CHECKING:
    from bigrun.run import Run
    from bigrun.sections import Optimizer

__all__ = ["announce_larger", "build", "converted", "saved_states", "states_of"]

COMPACT: dict[States, type[CompactAdamW]] = {"bf16": AdamWBf16, "8bit": AdamW8bit}


def build(states: States, groups: Sequence[dict[str, Any]], section: Optimizer) -> torch.optim.Optimizer:
    """AdamW with averages in this format; with fp32 the engine's own."""
    if states == "fp32":
        return build_adamw(groups, section)
    return COMPACT[states](list(groups), betas=section.betas)


def saved_states(run: Run) -> States | None:
    """The format of the newest checkpoint; None where there is none, or it is of another optimizer."""
    if not (hasattr(run, "checkpoints") and run.checkpoints.steps()):
        return None
    newest = run.checkpoints.path(run.checkpoints.steps()[-1])
    try:
        return states_of(run.checkpoints.load_facts(newest, "state")["optimizer"]["class"])
    except (CheckpointError, KeyError, TypeError):
        return None  # damaged: the engine says so


def states_of(name: str) -> States | None:
    """The format that a class of optimizers keeps."""
    if name == torch.optim.AdamW.__name__:
        return "fp32"
    return next((states for states, kind in COMPACT.items() if kind.__name__ == name), None)


def announce_larger(optimizer: torch.optim.Optimizer, target: torch.optim.Optimizer) -> None:
    """Whoever asks before the conversion hears of the larger states of both, as of checkpoints that must find room."""
    size = max(expected_state_bytes(optimizer), expected_state_bytes(target))
    optimizer.state_bytes = lambda: size  # type: ignore[attr-defined]


@torch.no_grad()
def converted(optimizer: torch.optim.Optimizer, states: States, section: Optimizer) -> torch.optim.Optimizer:
    """An optimizer of the same groups with averages in another format, rounded to it; the old one is left empty."""
    groups = [dict(group) for group in optimizer.param_groups]
    new = build(states, groups, section)
    for parameter in (parameter for group in new.param_groups for parameter in group["params"]):
        old_state = optimizer.state.pop(parameter, None)
        if old_state:
            state = new.state[parameter] = format_of(new, parameter).begin(parameter.detach())
            copy(old_state, format_of(optimizer, parameter), state, format_of(new, parameter), parameter)
            state["step"] = old_state["step"]
    return new


def format_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Format:
    return optimizer.format_of(parameter) if isinstance(optimizer, CompactAdamW) else Float32()


def copy(
    source: dict[str, Tensor], read_as: Format, target: dict[str, Tensor], write_as: Format, parameter: nn.Parameter
) -> None:
    for part in portions(parameter):
        for moment in MOMENTS:
            write_as.write(target, moment, part, read_as.read(source, moment, part))
