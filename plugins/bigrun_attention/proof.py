"""Whether a kernel gives the numbers of the engine's own attention, on this device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bigrun.model.attention import attend_by_group
from bigrun.model.groups import Group, Qkv

__all__ = ["TOLERANCES", "largest_error"]

TOLERANCES = {torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float32: 1e-3}
"""Of the largest value: some roundings of each type; fp32 as tensor cores may round its factors to TF32 (2^-11)."""
GROUPS = (Group(2, 197), Group(3, 37))
"""224 and 96 pixels in patches of 16: more and less than one tile of 128 tokens."""

Kernel = Callable[[Sequence[Qkv]], list[Tensor]]


def largest_error(kernel: Kernel, heads: int, head_size: int, dtype: torch.dtype, device: torch.device) -> float:
    """The largest difference to `attend_by_group`, of outputs and of gradients of queries, keys and values, each as a
    fraction of the largest value that it should have; NaN where a number is none. No global generator is drawn from."""
    generator = torch.Generator().manual_seed(0)

    def draw(group: Group) -> Tensor:
        drawn = torch.randn(group.crops, heads, group.tokens, head_size, generator=generator)
        return drawn.to(device=device, dtype=dtype).requires_grad_()

    inputs: list[Qkv] = [(draw(group), draw(group), draw(group)) for group in GROUPS]
    weights = [draw(group).detach() for group in GROUPS]
    got, expected = (_outputs_and_gradients(each, inputs, weights) for each in (kernel, attend_by_group))
    errors = [(a - b).abs().max() / b.abs().max() for a, b in zip(got, expected, strict=True)]
    return float(torch.stack(errors).max())  # the maximum of a NaN and anything is a NaN


def _outputs_and_gradients(kernel: Kernel, inputs: list[Qkv], weights: list[Tensor]) -> list[Tensor]:
    leaves = [tensor for qkv in inputs for tensor in qkv]
    with torch.enable_grad():
        outputs = kernel(inputs)
        gradients = torch.autograd.grad(outputs, leaves, weights)
    return [tensor.detach().double() for tensor in (*outputs, *gradients)]
