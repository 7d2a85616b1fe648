"""Which parameters a loss needs, and gradients for those that it does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["needed", "with_gradients"]


def needed(loss: Tensor, parameters: Mapping[str, nn.Parameter]) -> set[str]:
    """Those that get a gradient from a loss, by name. Follows the graph of a backward pass: some thousand nodes, 1 to 3
    ms."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    found: set[str] = set()
    nodes: list[Any] = [loss.grad_fn]
    seen = set(nodes)
    while nodes and len(found) < len(names):
        node = nodes.pop()
        if (name := names.get(id(getattr(node, "variable", None)))) is not None:
            found.add(name)
        for following, _ in getattr(node, "next_functions", ()):
            if following is not None and following not in seen:
                seen.add(following)
                nodes.append(following)
    return found


def with_gradients(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """The same loss, shape (), which gives each of these parameters a gradient of zeros.

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
