"""Partial sums of bf16 products in bf16 or fp32: errors and speed of a weight's gradient, a sum over all tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpu_checks.check import Figures

if TYPE_CHECKING:
    from gpu_checks.subject import Subject

__all__ = ["measure", "problems"]

MORE_EXACT = 1.02
"""Errors of both are mostly that of the result's own rounding."""


def measure(subject: Subject) -> Figures:
    import torch

    from bigrun.doctor.products import BF16_TOLERANCE
    from bigrun_cuda.config import CudaConfig
    from bigrun_cuda.flags import FLAGS, apply_flag
    from bigrun_cuda.plan import SUMS, plan_sums

    width, tokens = (64, 512) if subject.tiny else (1024, 16384)
    generator = torch.Generator(subject.device).manual_seed(0)
    x, g = (torch.randn(tokens, width, device=subject.device, generator=generator).bfloat16() for _ in range(2))
    before = FLAGS[SUMS].read()
    fast = figures_of(x, g)
    setting, undo = apply_flag(plan_sums(CudaConfig(bf16_sums="precise"), before))
    precise = figures_of(x, g)
    assert undo is not None
    undo()
    return {
        "before": before,
        "took_effect": setting.took_effect,
        "after": FLAGS[SUMS].read(),
        "tolerance": BF16_TOLERANCE,
        "fast": fast,
        "precise": precise,
    }


def figures_of(x: Any, g: Any) -> dict[str, float]:
    from bigrun.doctor.products import relative_error
    from gpu_checks.steps import median_seconds

    error = relative_error((g.mT @ x).double(), g.double().mT @ x.double())
    seconds = median_seconds(lambda: g.mT @ x, x.device, 10)
    return {"error": error, "tflop_per_second": 2 * x.shape[0] * x.shape[1] ** 2 / seconds / 1e12}


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    fast, precise = figures["fast"]["error"], figures["precise"]["error"]
    if figures["before"] != "fast":
        yield "torch's own default is no longer sums in bf16"
    if figures["took_effect"] is not True or figures["after"] != figures["before"]:
        yield "the flag was not set, or not given back"
    for name, error in (("fast", fast), ("precise", precise)):
        if not error <= figures["tolerance"]:
            yield f"{name} sums are off by {error:.1e}"
    if not precise <= MORE_EXACT * fast:
        yield f"precise sums are off by {precise:.1e}, fast ones by {fast:.1e}"
