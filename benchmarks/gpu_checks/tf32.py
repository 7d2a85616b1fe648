"""TF32, set by cuda-tuning's own code: products of fp32, and the losses whose matrix products are such."""

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
LOSS_ERRORS = {"gram_error": 1e-3, "small_gram_error": 1e-2, "koleo_error": 1e-3}
"""Of a loss, to that in fp64. Where TF32 is set, matrix products of both losses are in it (explanation/objective.md,
section 8). With factors rounded to TF32 on a CPU a Gram loss of 4.8e-6 was off by 5e-5, one of 9.5e-8 by 0.2 %: what
differs is small beside what is rounded."""
NOISE, LITTLE_NOISE = 0.05, 0.007
"""Of the student's features beside the teacher's: Gram losses of 5e-6 and 1e-7."""
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
    """Relative errors of KoLeo and of two Gram losses, and what these are."""
    import torch

    from bigrun.objective.losses import koleo_loss
    from bigrun_gram.loss import gram_loss

    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(8, 196, 1024, generator=generator)
    tokens = torch.randn(64, 1024, generator=generator) + 3 * torch.randn(1, 1024, generator=generator)
    koleo = float(koleo_loss(tokens, 64))  # on the CPU no TF32
    found = {"koleo_error": abs(float(koleo_loss(tokens.to(device), 64)) / koleo - 1)}
    for name, noise in {"gram": NOISE, "small_gram": LITTLE_NOISE}.items():
        student = teacher + noise * torch.randn(8, 196, 1024, generator=generator)
        meant = exact_gram(student, teacher)
        loss = float(gram_loss(student.to(device), teacher.to(device)))
        found |= {f"{name}_loss": meant, f"{name}_error": abs(loss / meant - 1)}
    return found


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
    for name, error in LOSS_ERRORS.items():
        if not during[name] <= error:
            yield f"with TF32 {name.removesuffix('_error')} is off by {during[name]:.1e}"
