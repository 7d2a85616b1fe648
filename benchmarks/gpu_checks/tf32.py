"""TF32, set by cuda-tuning's own code: products of fp32, and the losses that are computed in fp32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpu_checks.check import Figures, Skip

if TYPE_CHECKING:
    import torch

    from gpu_checks.subject import Subject

__all__ = ["measure", "problems"]

FP32_ERROR = 1e-5
TF32_ERRORS = (1e-4, 3e-3)
"""Factors with 11 bits: 2^-11 = 5e-4 of a product, and what adds up."""
LOSS_ERROR = 1e-3
"""Of a loss, to that in fp64; by docs/explanation/objective.md, section 8, both are in fp32 always. With factors that
were rounded to TF32 on a CPU this Gram loss was off by 5e-5."""
SIZE = 4096


def measure(subject: Subject) -> Figures:
    import os

    from bigrun_cuda.config import CudaConfig
    from bigrun_cuda.flags import FLAGS, apply_flag
    from bigrun_cuda.plan import PRECISION, plan_precision

    subject.require_nvidia("TF32 is NVIDIA's")
    planned = plan_precision(subject.facts, CudaConfig(), os.environ, FLAGS[PRECISION].read(), "bf16")
    if planned.value is None:
        raise Skip(f"cuda-tuning leaves it alone: {planned.reason}")
    before = figures_now(subject.device)
    setting, undo = apply_flag(planned)
    during = figures_now(subject.device)
    assert undo is not None
    undo()
    return {
        "took_effect": setting.took_effect,
        "before": before,
        "with_tf32": during,
        "given_back": figures_now(subject.device)["product_error"],
    }


def figures_now(device: torch.device) -> dict[str, float]:
    """Relative errors against fp64, and TFLOP/s."""
    import torch

    from bigrun.doctor.products import relative_error
    from gpu_checks.steps import median_seconds

    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(SIZE, SIZE, device=device, generator=generator) for _ in range(2))
    error = relative_error((a @ b).double(), a.double() @ b.double())
    seconds = median_seconds(lambda: a @ b, device, 5)
    return {
        "product_error": error,
        "tflop_per_second": 2 * SIZE**3 / seconds / 1e12,
        **loss_errors(device),
    }


def loss_errors(device: torch.device) -> dict[str, float]:
    """Relative errors of the Gram loss of features that differ by 1 %, loss 1e-5 or so, and of KoLeo."""
    import torch

    from bigrun.objective.losses import koleo_loss
    from bigrun_gram.loss import gram_loss

    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(8, 196, 1024, generator=generator)
    student = teacher + 0.05 * torch.randn(8, 196, 1024, generator=generator)
    tokens = torch.randn(64, 1024, generator=generator) + 3 * torch.randn(1, 1024, generator=generator)
    found = gram_loss(student.to(device), teacher.to(device)), koleo_loss(tokens.to(device), 64)
    meant = exact_gram(student, teacher), float(koleo_loss(tokens, 64))  # on the CPU no TF32
    errors = [abs(float(f) / m - 1) for f, m in zip(found, meant, strict=True)]
    return {"gram_error": errors[0], "koleo_error": errors[1], "gram_loss": meant[0]}


def exact_gram(student: torch.Tensor, teacher: torch.Tensor) -> float:
    """In fp64."""
    import torch.nn.functional as F

    fs, ft = F.normalize(student.double(), dim=-1), F.normalize(teacher.double(), dim=-1)
    return float((fs @ fs.mT - ft @ ft.mT).square().mean())


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    before, during = figures["before"], figures["with_tf32"]
    if figures["took_effect"] is not True:
        yield "the setting says that it took no effect"
    if not before["product_error"] <= FP32_ERROR:
        yield f"before, products of fp32 are off by {before['product_error']:.1e}"
    if not TF32_ERRORS[0] <= during["product_error"] <= TF32_ERRORS[1]:
        yield f"with TF32 products are off by {during['product_error']:.1e}, which is not TF32"
    if not figures["given_back"] <= FP32_ERROR:
        yield f"afterwards products of fp32 are off by {figures['given_back']:.1e}: it was not given back"
    for name in ("gram_error", "koleo_error"):
        if not during[name] <= LOSS_ERROR:
            yield f"with TF32 {name.removesuffix('_error')} is off by {during[name]:.1e}"
