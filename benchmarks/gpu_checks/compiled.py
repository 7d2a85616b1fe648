"""Compiled blocks, by cuda-tuning: the same training, no graph breaks, and room for what stochastic depth varies."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpu_checks.check import Figures, Skip
from gpu_checks.training import BATCH, same_training

if TYPE_CHECKING:
    from bigrun.config import Document
    from gpu_checks.subject import Subject

__all__ = ["measure", "problems"]

STEPS = 8
DROP_PATH_FRACTION, DRAWS = 0.3, 24
"""With 64 or 16 images, and 2 global and 8 local crops of each, stochastic depth keeps one of three combinations of
crops, of probabilities 0.4, 0.2 and 0.4: each is a graph of its own, and so many steps meet all of them."""


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
        "stochastic_depth": stochastic_depth(subject, plugins),
    }


def stochastic_depth(subject: Subject, plugins: Mapping[str, Any]) -> Figures:
    """How many graphs there are when all combinations have been met. torch only logs that a block has more than
    `recompile_limit`, and computes it uncompiled: here it raises."""
    import torch._dynamo
    from torch._dynamo.exc import FailOnRecompileLimitHit
    from torch._dynamo.utils import counters

    from gpu_checks.recipe import COMPARABLE, document
    from gpu_checks.steps import Steps, train

    preset = document(
        subject, "vit_small", BATCH, [*COMPARABLE, f"model.drop_path_fraction={DROP_PATH_FRACTION}"], plugins
    )
    torch._dynamo.reset()  # what the run before has compiled would count, too
    counters.clear()
    found: Figures = {"combinations": combinations(preset), "failure": None}
    try:
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            trained = train(preset, Steps(DRAWS))
        found["images_per_second"] = trained.images_per_second
    except FailOnRecompileLimitHit as error:
        found["failure"] = f"a block has more graphs than torch's limit: {error}"
    return {**found, "graphs": int(counters["stats"]["unique_graphs"])}


def combinations(document: Document) -> int:
    """Of numbers of global and of local crops that a pass may keep."""
    from bigrun.activation import activate
    from bigrun.model.block import kept_crops

    config, _ = activate(document)
    batch, drop = config.data.effective_batch, config.model.drop_path_fraction
    crops = (config.views.global_crops * batch, config.views.local_crops * batch)
    return len({tuple(kept_crops(number, drop, draw / 1000) for number in crops) for draw in range(1000)})


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    setting, event = figures["setting"], figures["event"]
    if setting is None or setting["took_effect"] is not True:
        yield f"the setting: {setting}"
    if event is None:
        yield "no event says what was compiled"
    elif event["graph_breaks"] or not event["graphs"]:
        yield f"{event['graphs']} graphs, {event['graph_breaks']} graph breaks"
    yield from same_training(figures["compiled"], figures["eager"])
    varied = figures["stochastic_depth"]
    if varied["failure"] is not None:
        yield f"stochastic depth: {varied['failure']}"
    elif event is not None and varied["graphs"] < event["graphs"] + varied["combinations"] - 1:
        yield f"stochastic depth: {varied['graphs']} graphs, {event['graphs']} without it: not every one was met"
