"""What the kernels of attention compute on a device, beside fp32 on the CPU."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bigrun_rocm.attention import Measured

__all__ = ["BACKENDS", "measure"]

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
SHAPE = (2, 6, 197)
"""Images, heads, tokens of 224 pixels in patches of 16: no multiple of a tile."""


def measure(head_size: int, dtype: torch.dtype, device: torch.device) -> dict[str, Measured]:
    """Forward and backward pass of each kernel on inputs of (2, 6, 197, head_size). The reference is attention in fp32
    on the CPU, for a GPU that computes matrix products wrongly would do so for both. Draws from no global generator."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, weight = (torch.randn(*SHAPE, head_size, generator=generator).to(dtype) for _ in range(4))
    cpu = torch.device("cpu")
    expected = _results([q, k, v], weight, torch.float32, cpu, SDPBackend.MATH)
    return {name: _measured([q, k, v], weight, dtype, device, kind, expected) for name, kind in BACKENDS.items()}


def _measured(
    inputs: list[Tensor],
    weight: Tensor,
    dtype: torch.dtype,
    device: torch.device,
    backend: SDPBackend,
    expected: list[Tensor],
) -> Measured:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            got = _results(inputs, weight, dtype, device, backend)
        except RuntimeError as error:
            said = [str(warning.message) for warning in caught] or [str(error)]
            return Measured(problem="; ".join(text.splitlines()[0].strip() for text in said))
    errors = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, expected, strict=True)]
    backward = torch.tensor(errors[1:]).max()  # the maximum of a NaN and anything is a NaN
    return Measured(forward_error=errors[0], backward_error=float(backward))


def _results(
    inputs: list[Tensor], weight: Tensor, dtype: torch.dtype, device: torch.device, backend: SDPBackend
) -> list[Tensor]:
    """Output and gradients of q, k and v, on the CPU in fp64."""
    q, k, v = (tensor.to(device, dtype).requires_grad_() for tensor in inputs)
    with torch.enable_grad(), sdpa_kernel([backend]):
        output = F.scaled_dot_product_attention(q, k, v)
        gradients = torch.autograd.grad(output, (q, k, v), weight.to(device, dtype))
    return [tensor.detach().cpu().double() for tensor in (output, *gradients)]
