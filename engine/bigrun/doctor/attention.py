"""Attention of a block by each kernel that torch has here, forward and backward: bf16 against fp32."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from bigrun.doctor.products import BLOCKS, relative_errors, rounded, verdict_of
from bigrun.doctor.row import Row
from bigrun.doctor.subject import Subject
from bigrun.model.attention import attend_by_group

__all__ = ["KERNELS", "attend", "attention_rows", "kernels_here"]

IMAGES, TOKENS, HEAD = 2, 197, 64
"""An image of 224 pixels in patches of 16, with a class token."""
FORWARD_TOLERANCE = 2.0**-7
BACKWARD_TOLERANCE = 2.0**-5
"""Gradients of queries and keys are differences of numbers that were rounded to bf16 before."""
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def attention_rows(subject: Subject) -> Iterator[Row]:
    device = subject.device
    here = kernels_here(device)
    yield kernels_row(here, device)
    for name in here:
        yield from rows_of_kernel(f"attention {name}", limited_to(KERNELS[name]), device)
    yield from rows_of_kernel("attention of a run", lambda q, k, v: attend_by_group([(q, k, v)])[0], device)


def rows_of_kernel(name: str, kernel: Attend, device: torch.device) -> Iterator[Row]:
    for block, (_, heads) in BLOCKS.items():
        inputs = rounded(*[(IMAGES, heads, TOKENS, HEAD)] * 4)
        meant = attend(limited_to(SDPBackend.MATH), inputs, torch.device("cpu"), torch.float32)
        errors = relative_errors(attend(kernel, inputs, device, torch.bfloat16), meant)
        yield verdict_of(f"{name} {block}", errors, FORWARD_TOLERANCE, BACKWARD_TOLERANCE)


def attend(kernel: Attend, inputs: list[Tensor], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """The result and its gradients by queries, keys and values, on the CPU in fp64; all (n, h, N, d).

    Args:
        inputs: queries, keys, values, and the gradient of the result.
    """
    *qkv, gradient = (each.to(device, dtype) for each in inputs)
    for each in qkv:
        each.requires_grad_(True)
    y = kernel(*qkv)
    found = (y, *torch.autograd.grad(y, qkv, gradient))
    return [each.detach().to("cpu", torch.float64) for each in found]


def limited_to(backend: SDPBackend) -> Attend:
    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    return kernel


def kernels_here(device: torch.device) -> list[str]:
    """Names of those that take a block's queries, keys and values in bf16."""
    found = []
    qkv = [torch.zeros(1, 1, TOKENS, HEAD, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    for name, backend in KERNELS.items():
        with contextlib.suppress(RuntimeError), warnings.catch_warnings():  # "No available kernel", and why
            warnings.simplefilter("ignore")
            limited_to(backend)(*qkv)
            found.append(name)
    return found


def kernels_row(here: list[str], device: torch.device) -> Row:
    """On a GPU `math` alone keeps every weight of attention in memory, and is several times as slow."""
    name, found = "attention kernels", ", ".join(here) or "none"
    missing = [kernel for kernel in KERNELS if kernel not in here]
    found += f"; not here: {', '.join(missing)}" if missing else ""
    if device.type == "cpu" or len(here) > 1:
        return Row(name, "ok" if here else "info", found)
    remedy = (
        "install a torch whose fused kernels include this chip; on AMD's gfx11 some releases need "
        "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=1 in the environment"
    )
    return Row(name, "warn", found, "flash, memory-efficient or cuDNN", remedy)
