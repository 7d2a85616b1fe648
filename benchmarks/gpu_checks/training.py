"""The same training in several ways: losses, gradients, images per second, memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from bigrun import hookimpl
from gpu_checks.check import Figures, relative_difference

if TYPE_CHECKING:
    import torch

    from bigrun.config import Document
    from bigrun.run import Run
    from gpu_checks.subject import Subject

__all__ = ["UnfusedAdamW", "measure", "problems", "same_training"]

BATCH, STEPS = 64, 5
LOSS_DIFFERENCE, GRADIENT_DIFFERENCE = 0.002, 0.05
"""Relative: of all losses, and of the norms of the first four gradients. The losses of so few steps hardly change; the
norms fall by half and more with the first updates. On a CPU another kernel of attention, and fp32 instead of bf16,
changed them by 0.7 % at most."""
MOST_MFU = 0.9


class UnfusedAdamW:
    """Replaces the engine's optimizer by torch's other implementation."""

    @hookimpl(tryfirst=True)
    def build_optimizer(self, run: Run, parameters: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        import torch

        betas = run.config.optimizer.betas
        return torch.optim.AdamW(list(parameters), lr=0.0, betas=betas, eps=1e-8, weight_decay=0.0, foreach=True)


@attrs.frozen
class Way:
    """One way."""

    sets: Sequence[str] = ()
    plugins: Mapping[str, Any] = attrs.field(factory=dict)
    companions: Sequence[Any] = ()


WAYS = {
    "eager": Way(),
    "cuda-tuning": Way(plugins={"cuda-tuning": {}}),
    "unfused AdamW": Way(companions=[UnfusedAdamW()]),
    "selective checkpointing": Way(["hardware.activation_checkpointing='selective'"]),
    "full checkpointing": Way(["hardware.activation_checkpointing='full'"]),
}


def measure(subject: Subject) -> Figures:
    from gpu_checks.recipe import COMPARABLE, document
    from gpu_checks.steps import Steps, train

    ways = {}
    for name, way in WAYS.items():
        preset = document(subject, "vit_small", BATCH, [*COMPARABLE, *way.sets], way.plugins)
        found = train(preset, Steps(STEPS), way.companions)
        ways[name] = {**found.figures(), "mfu": mfu(subject, preset, found.images_per_second)}
    return {"is_gpu": subject.is_gpu, "ways": ways}


def mfu(subject: Subject, document: Document, images_per_second: float) -> float | None:
    """None for a device whose peak is not known."""
    from bigrun.activation import activate
    from bigrun.planner.flops import step_flops
    from bigrun.planner.gpus import peak_flops

    config, _ = activate(document)
    peak = peak_flops(subject.facts.name) if subject.is_gpu else None
    return None if peak is None else images_per_second * step_flops(config.model, config.views) / peak


def same_training(found: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[str]:
    """What is another training in one row of figures than in the other."""
    loss = relative_difference(found["losses"], base["losses"])
    gradient = relative_difference(found["gradient_norms"], base["gradient_norms"])
    if not loss <= LOSS_DIFFERENCE:
        yield f"losses differ by {loss:.1e}"
    if not gradient <= GRADIENT_DIFFERENCE:
        yield f"norms of gradients differ by {gradient:.1e}"


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    ways = figures["ways"]
    base = ways["eager"]
    norms = base["gradient_norms"]
    if not abs(norms[-1] / norms[0] - 1) > 2 * GRADIENT_DIFFERENCE:
        yield f"too little is learnt for a comparison: gradients of {norms}"
    for name, found in ways.items():
        yield from (f"{name}: {problem}" for problem in same_training(found, base))
        if found["mfu"] is not None and not 0 < found["mfu"] < MOST_MFU:
            yield f"{name}: MFU {found['mfu']:.2f} cannot be"
    if figures["is_gpu"]:
        peaks = [ways[name]["peak_mib"] for name in ("full checkpointing", "selective checkpointing", "eager")]
        if not peaks[0] < peaks[1] < peaks[2]:
            yield f"full and selective checkpointing and none take {peaks} MiB"
