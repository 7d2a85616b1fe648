"""Compiled blocks, by cuda-tuning: the same training, no graph breaks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpu_checks.check import Figures, Skip
from gpu_checks.training import BATCH, same_training

if TYPE_CHECKING:
    from gpu_checks.subject import Subject

__all__ = ["measure", "problems"]

STEPS = 8


def measure(subject: Subject) -> Figures:
    import os

    from bigrun_cuda.blocks import compile_refusal, what_compiles

    subject.require_nvidia("cuda-tuning compiles on NVIDIA GPUs")
    refusal = compile_refusal(**what_compiles(os.environ))
    if refusal is not None:
        raise Skip(refusal)
    from gpu_checks.recipe import COMPARABLE, document
    from gpu_checks.steps import Steps, train

    eager = train(document(subject, "vit_small", BATCH, COMPARABLE), Steps(STEPS))
    began = time.perf_counter()
    plugins = {"cuda-tuning": {"compile": True}}
    compiled = train(document(subject, "vit_small", BATCH, COMPARABLE, plugins), Steps(STEPS))
    return {
        "eager": eager.figures(),
        "compiled": compiled.figures(),
        "compiled_run_seconds": time.perf_counter() - began,
        "speed_up": compiled.images_per_second / eager.images_per_second,
        "setting": compiled.setting("compiled blocks"),
        "event": compiled.events.get("compiled"),
    }


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    setting, event = figures["setting"], figures["event"]
    if setting is None or setting["took_effect"] is not True:
        yield f"the setting: {setting}"
    if event is None:
        yield "no event says what was compiled"
    elif event["graph_breaks"] or not event["graphs"]:
        yield f"{event['graphs']} graphs, {event['graph_breaks']} graph breaks"
    yield from same_training(figures["compiled"], figures["eager"])
