"""AdamW and the teacher's mean: as fused as they are said to be, and right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpu_checks.check import Figures

if TYPE_CHECKING:
    import torch
    from torch import nn

    from gpu_checks.subject import Subject

__all__ = ["measure", "problems"]

STEPS = 3
DIFFERENCE = 1e-5
"""Of weights, to the largest weight."""
TEMPORARY = 0.02
"""Of the weights' bytes, that a fused step may take for itself."""
SLOWER = 1.1
MOMENTUM = 0.99


def measure(subject: Subject) -> Figures:
    import torch

    from bigrun.ema import ema_update, frozen_copy
    from bigrun.model.vit import VisionTransformer
    from bigrun.optimizer import build_adamw, parameter_groups
    from gpu_checks.recipe import document

    config = config_of(document(subject, "vit_small" if subject.tiny else "vit_large", 32))
    torch.manual_seed(0)
    with subject.device:
        network = VisionTransformer(config.model)
    other, teacher = frozen_copy(network).requires_grad_(True), frozen_copy(network)

    def groups(module: nn.Module) -> list[dict[str, Any]]:
        return parameter_groups({"backbone": module}, config.model.depth, config.optimizer)

    fused = build_adamw(groups(network), config.optimizer)
    unfused = torch.optim.AdamW(
        groups(other), lr=0.0, betas=config.optimizer.betas, eps=1e-8, weight_decay=0.0, foreach=True
    )
    before = [p.detach().clone() for p in teacher.parameters()]
    found = {name: stepped(o, m) for name, o, m in (("fused", fused, network), ("foreach", unfused, other))}
    ema_update(teacher, network, MOMENTUM)
    meant = [
        MOMENTUM * b.double() + (1 - MOMENTUM) * p.double() for b, p in zip(before, network.parameters(), strict=True)
    ]
    return {
        "is_gpu": subject.is_gpu,
        "is_fused": bool(fused.defaults["fused"]),
        "parameters": sum(p.numel() for p in network.parameters()),
        "weights_mib": sum(p.nbytes for p in network.parameters()) / 2**20,
        **found,
        "difference": largest([p.detach() for p in network.parameters()], [p.detach() for p in other.parameters()]),
        "teacher_difference": largest(list(teacher.parameters()), meant),
    }


def config_of(document: Any) -> Any:
    from bigrun.activation import activate

    return activate(document)[0]


def stepped(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Any]:
    """Take steps; milliseconds of one, and what it takes of the memory for a moment."""
    import torch

    from gpu_checks.steps import median_seconds, wait

    device = next(module.parameters()).device
    generator = torch.Generator(device).manual_seed(1)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, device=device, generator=generator)
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = 1e-3, 0.04
    optimizer.step()  # makes its state
    wait(device, reset=True)
    alive = torch.cuda.memory_allocated() if device.type == "cuda" else None
    for _ in range(STEPS - 1):
        optimizer.step()
    wait(device)
    temporary = None if alive is None else (torch.cuda.max_memory_allocated() - alive) / 2**20
    kept = [p.detach().clone() for p in module.parameters()]
    milliseconds = 1000 * median_seconds(optimizer.step, device, 5)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), kept, strict=True):
            parameter.copy_(value)
    return {"milliseconds": milliseconds, "temporary_mib": temporary}


def largest(found: list[torch.Tensor], meant: list[torch.Tensor]) -> float:
    """The largest difference, as a part of the largest value."""
    difference = max(float((f.detach().double() - m.double()).abs().max()) for f, m in zip(found, meant, strict=True))
    return difference / max(float(m.abs().max()) for m in meant)


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    fused, foreach = figures["fused"], figures["foreach"]
    if not figures["is_fused"]:
        yield "the engine's AdamW is not fused"
    for name in ("difference", "teacher_difference"):
        if not figures[name] <= DIFFERENCE:
            yield f"{name} {figures[name]:.1e}"
    if not figures["is_gpu"]:
        return
    if not fused["temporary_mib"] <= TEMPORARY * figures["weights_mib"]:
        yield f"a fused step takes {fused['temporary_mib']:.0f} MiB, weights are {figures['weights_mib']:.0f} MiB"
    if not fused["milliseconds"] <= SLOWER * foreach["milliseconds"]:
        yield f"fused takes {fused['milliseconds']:.2f} ms, unfused {foreach['milliseconds']:.2f}"
