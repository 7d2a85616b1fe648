"""Matrix products of a block, forward and backward: bf16 against fp32, and fp32 against fp64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from bigrun.doctor.row import Row, judged
from bigrun.doctor.subject import Subject

__all__ = ["BLOCKS", "product_rows", "products", "relative_error", "rounded", "verdict_of"]

BLOCKS = {"ViT-S": (384, 6), "ViT-L": (1024, 16)}
"""Width and heads."""
TOKENS = 128
BF16_TOLERANCE = 2.0**-7
"""A number that is rounded to bf16 once is off by up to 2**-9 of its power of two, 1.7e-3 in the mean of squares; sums
that are kept in bf16 in between, as cuBLAS does for long ones, add as much again."""
FP32_TOLERANCE = 1e-5
"""Sums of 4096 products in fp32 are off by 1e-6."""
TF32_TOLERANCE = 3e-3
"""Factors with 11 bits: 2**-11, and what adds up."""
REPEATS = 10
HARDWARE = (
    "the device, its driver or torch computes wrong numbers: update driver and torch, take back any overclocking, "
    "and train on another device until this is ok"
)


def product_rows(subject: Subject) -> Iterator[Row]:
    device = subject.device
    for block, (width, _) in BLOCKS.items():
        inputs = rounded((TOKENS, width), (width, 4 * width), (TOKENS, 4 * width))
        meant = products(inputs, torch.device("cpu"), torch.float32)
        errors = relative_errors(products(inputs, device, torch.bfloat16), meant)
        yield verdict_of(f"bf16 products {block}", errors, BF16_TOLERANCE)
    inputs = rounded((TOKENS, 384), (384, 1536), (TOKENS, 1536))
    meant = products(inputs, torch.device("cpu"), torch.float64)
    yield fp32_row(relative_errors(products(inputs, device, torch.float32), meant))
    yield repeat_row(inputs, device)


def rounded(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Normal numbers that bf16 has: what differs is arithmetic, not its input. The same ones everywhere, fp32."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).bfloat16().float() for shape in shapes]


def products(inputs: list[Tensor], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """x w and its gradients by x and w, on the CPU in fp64.

    Args:
        inputs: x (T, D), w (D, 4D), the gradient of the product (T, 4D).
    """
    x, w, gradient = (each.to(device, dtype) for each in inputs)
    x.requires_grad_(True)
    w.requires_grad_(True)
    y = x @ w
    found = (y, *torch.autograd.grad(y, (x, w), gradient))
    return [each.detach().to("cpu", torch.float64) for each in found]


def relative_errors(found: list[Tensor], meant: list[Tensor]) -> list[float]:
    return [relative_error(a, b) for a, b in zip(found, meant, strict=True)]


def relative_error(found: Tensor, meant: Tensor) -> float:
    """|found - meant| / |meant|, Frobenius norms; NaN or infinite where `found` has such a number."""
    return float((found - meant).norm() / meant.norm())


def verdict_of(name: str, errors: list[float], tolerance: float, backward_tolerance: float | None = None) -> Row:
    """
    Args:
        errors: of the result first, then of gradients.
    """
    limits = [tolerance, *[backward_tolerance or tolerance] * (len(errors) - 1)]
    good = all(error <= limit for error, limit in zip(errors, limits, strict=True))  # NaN is not
    forward, backward = errors[0], max(errors[1:], key=lambda error: (math.isnan(error), error))
    found = f"off by {forward:.1e}, backward {backward:.1e}"
    if not all(map(math.isfinite, errors)):
        found = "numbers that are not finite"
    expected = f"at most {limits[0]:.1e}, backward {limits[1]:.1e}"
    facts = {"error": forward, "backward_error": backward} if math.isfinite(forward + backward) else {}
    return judged(name, good, found, expected, HARDWARE, otherwise="fail", facts=facts)


def fp32_row(errors: list[float]) -> Row:
    """Products that are less exact than fp32 and as exact as TF32 were allowed to be."""
    name = "fp32 products"
    if FP32_TOLERANCE < max(errors) <= TF32_TOLERANCE:
        found = f"off by {max(errors):.1e}: computed in TF32"
        remedy = "fine for bf16 runs; for exact fp32 unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE and NVIDIA_TF32_OVERRIDE"
        return Row(name, "warn", found, f"at most {FP32_TOLERANCE:.0e}", remedy)
    return verdict_of(name, errors, FP32_TOLERANCE)


def repeat_row(inputs: list[Tensor], device: torch.device) -> Row:
    """The same product gives the same bits: bad memory and too high a clock do not."""
    x, w = (each.to(device, torch.bfloat16) for each in inputs[:2])
    first = x @ w
    different = sum(not torch.equal(x @ w, first) for _ in range(REPEATS))
    remedy = "if it happens again: take back any overclocking, test the memory, look for ECC errors (`nvidia-smi -q`)"
    found = f"{different} of {REPEATS} differ"
    return judged("repeated product", different == 0, found, "bit for bit the same", remedy)
