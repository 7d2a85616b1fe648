"""One call of attention for crops of all sizes beside one call for each size: numbers, time, training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpu_checks.check import Figures, Skip
from gpu_checks.training import same_training

if TYPE_CHECKING:
    from bigrun_attention.kernel import Attend
    from bigrun_attention.needs import Work
    from gpu_checks.subject import Subject

__all__ = ["measure", "problems"]

SIZES = {"ViT-S, 8 images": (6, 8), "ViT-L, 64 images": (16, 64)}
"""Heads and images."""
GLOBAL, LOCAL = (2, 201), (8, 41)
"""Crops of an image, and tokens of each."""
BATCH, STEPS = 32, 4
BASE = "one call for each size"


def measure(subject: Subject) -> Figures:
    from bigrun_attention.memory_efficient import build_memory_efficient
    from bigrun_attention.varlen import build_varlen

    work = work_of()
    rows = {
        "varlen-attention": one(subject, work, varlen_obstacle_here(subject, work), build_varlen),
        "xformers-attention": one(subject, work, xformers_obstacle_here(subject, work), build_memory_efficient),
    }
    if not subject.facts.is_gpu:
        raise Skip("; ".join(f"{name}: {row['obstacle']}" for name, row in rows.items()))
    from gpu_checks.recipe import COMPARABLE, document
    from gpu_checks.steps import Steps, train

    for name, row in [*rows.items(), (BASE, rows.setdefault(BASE, {}))]:
        if "obstacle" not in row:
            plugins: dict[str, Any] = {} if name == BASE else {name: {}}
            row["training"] = train(document(subject, "vit_small", BATCH, COMPARABLE, plugins), Steps(STEPS)).figures()
    return {"arch": subject.facts.arch, "must_work": subject.facts.backend == "cuda", "ways": rows}


def work_of() -> Work:
    from bigrun_attention.needs import Work

    return Work(16, 64, "bfloat16")


def varlen_obstacle_here(subject: Subject, work: Work) -> str | None:
    import os

    import torch

    from bigrun_attention.needs import varlen_obstacle

    return varlen_obstacle(
        subject.facts,
        work,
        has_flash=torch.backends.cuda.is_flash_attention_available(),
        has_experimental=os.environ.get("TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL") == "1",
    )


def xformers_obstacle_here(subject: Subject, work: Work) -> str | None:
    from bigrun_attention.memory_efficient import read_xformers
    from bigrun_attention.needs import XformersFacts, xformers_obstacle

    found = read_xformers(subject.device, work) if subject.is_gpu else XformersFacts()
    return xformers_obstacle(subject.facts, work, found)


def one(subject: Subject, work: Work, obstacle: str | None, build: Callable[[], Attend]) -> dict[str, Any]:
    """Why a kernel is not used here; or how far its numbers are from the engine's own, and the ratio of times."""
    if obstacle is not None:
        return {"obstacle": obstacle}
    import torch

    from bigrun_attention.kernel import PackedAttention
    from bigrun_attention.proof import TOLERANCES
    from bigrun_attention.replacement import prove

    kernel = PackedAttention(build(), torch.bfloat16, subject.device.type)
    error, failure = prove(kernel, work, subject.device)
    return {
        "error": error,
        "tolerance": TOLERANCES[torch.bfloat16],
        "failure": failure,
        "time_ratio": {} if failure else {name: ratio(subject, kernel, *size) for name, size in SIZES.items()},
    }


def ratio(subject: Subject, kernel: Callable[..., Any], heads: int, images: int) -> float:
    """Of the times, forward and backward."""
    import torch

    from bigrun.model.attention import attend_by_group
    from gpu_checks.steps import median_seconds

    groups = []
    for crops, tokens in (GLOBAL, LOCAL):
        shape = (images * crops, heads, tokens, 64)
        groups.append(
            tuple(torch.randn(shape, device=subject.device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
        )
    leaves = [tensor for qkv in groups for tensor in qkv]

    def seconds(attend: Callable[..., Any]) -> float:
        def both() -> None:
            outputs = attend(groups)
            torch.autograd.grad(outputs, leaves, [torch.ones_like(out) for out in outputs])

        return median_seconds(both, subject.device)

    return seconds(kernel) / seconds(attend_by_group)


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    ways = figures["ways"]
    base = ways[BASE]["training"]
    for name, row in ways.items():
        if row.get("failure"):
            yield f"{name}: {row['failure']}"
        elif "error" in row and not row["error"] <= row["tolerance"]:
            yield f"{name}: off by {row['error']:.1e}"
        if "training" in row:
            yield from (f"{name}: {problem}" for problem in same_training(row["training"], base))
    if figures["must_work"] and "obstacle" in ways["varlen-attention"]:
        yield f"varlen-attention: {ways['varlen-attention']['obstacle']}"
