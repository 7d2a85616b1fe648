"""AdamW whose averages take fewer bytes between two steps; within a step everything is torch's, in fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from bigrun.shards import local
from bigrun_savers.formats import BLOCK, MOMENTS, SMALLEST, Bf16, EightBit, Float32, Format

__all__ = ["PORTION", "AdamW8bit", "AdamWBf16", "CompactAdamW", "portions"]

PORTION = 2**22
"""Elements that are in fp32 at a time: 32 MiB of averages, and in 8 bits 200 MiB of what rounding needs."""


class CompactAdamW(torch.optim.Optimizer):
    """Brings a portion of the averages to fp32, has torch's fused AdamW update it, and keeps the result in `format`.

    Parameters are contiguous and fp32. Names of classes are what a checkpoint knows the format by.
    """

    format_class: ClassVar[type[Format]]

    def __init__(self, groups: Sequence[dict[str, Any]], *, betas: tuple[float, float], eps: float = 1e-8) -> None:
        """It changes nothing before the groups have their `lr` and `weight_decay`."""
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.0, "fused": True})
        self._full, self._compact = Float32(), self.format_class()

    def reseed(self, seed: int) -> None:
        """Make what is drawn for rounding from here on a function of the seed. The same on every process, or they would
        part."""
        self._compact.reseed(seed)

    def format_of(self, parameter: Tensor) -> Format:
        """How the averages of a parameter are kept: as they are where it is small, or does not divide into blocks."""
        size = parameter.numel()
        return self._full if size < SMALLEST or size % BLOCK else self._compact

    def state_bytes(self) -> int:
        """What the averages of all parameters take."""
        parameters = [parameter.detach().to("meta") for group in self.param_groups for parameter in group["params"]]
        states = [self.format_of(parameter).begin(parameter) for parameter in parameters]
        return sum(tensor.nbytes for state in states for tensor in state.values())

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; there is no closure."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state, kept = self.state[parameter], self.format_of(parameter)
        if not state:
            state.update(kept.begin(parameter.detach()))
            state["step"] = torch.zeros((), device=parameter.device)
        values, gradients = local(parameter.detach()).view(-1), local(gradient).reshape(-1)
        for part in portions(parameter):
            moments = [kept.read(state, name, part) for name in MOMENTS]
            step = state["step"].clone()  # torch counts it up
            update(values[part], gradients[part], moments, step, group)
            for name, moment in zip(MOMENTS, moments, strict=True):
                kept.write(state, name, part, moment)
        state["step"] += 1

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but no state is cast to its parameter's type on the way, which would take as much as fp32."""
        super().load_state_dict({**state_dict, "state": {}})
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, state in state_dict["state"].items():
            parameter = parameters[index]
            self.state[parameter] = {name: tensor.to(parameter.device) for name, tensor in state.items()}


class AdamWBf16(CompactAdamW):
    """Averages in bf16."""

    format_class = Bf16


class AdamW8bit(CompactAdamW):
    """Averages in 8 bits."""

    format_class = EightBit


def portions(parameter: Tensor) -> Iterator[slice]:
    """Ranges of a parameter's elements, or of those that this process has, one after the other."""
    size = local(parameter).numel()
    return (slice(start, min(start + PORTION, size)) for start in range(0, size, PORTION))


def update(values: Tensor, gradients: Tensor, moments: Sequence[Tensor], step: Tensor, group: dict[str, Any]) -> None:
    """torch's fused AdamW over flat tensors, in place."""
    average, average_of_squares = moments
    adamw(
        [values],
        [gradients],
        [average],
        [average_of_squares],
        [],
        [step],
        fused=True,
        foreach=False,
        amsgrad=False,
        maximize=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
    )
