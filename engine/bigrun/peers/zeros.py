"""Gradients for parameters that a loss does not need."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["with_gradients"]


def with_gradients(loss: Tensor, parameters: list[torch.nn.Parameter]) -> Tensor:
    """The same loss, shape (); each parameter has a gradient of it, of zeros where nothing else gives it one.

    FSDP2 puts the gradients of a unit into one buffer, of those parameters that have one: what one process leaves out
    and another does not, as a head where no patch is masked, would shift all that follows.
    """
    result: Tensor = Zeros.apply(loss, *parameters)  # type: ignore[no-untyped-call]
    return result


class Zeros(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = parameters
        return loss.clone()  # FSDP2 warns of a view

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient, *(p.new_zeros(()).expand(p.shape) for p in ctx.parameters)
