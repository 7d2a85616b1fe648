"""A plan in lines for people, and as JSON. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from bigrun.checkpoint.space import human_bytes
from bigrun.planner.memory import OUTSIDE_BYTES, RESERVED_FACTOR
from bigrun.planner.plan import Plan
from bigrun.planner.sizes import human_gib
from bigrun.planner.verdict import verdicts

__all__ = ["lines", "to_json"]


def lines(plan: Plan) -> Iterator[str]:
    """The whole plan; verdicts last."""
    yield f"plan         {plan.source}, in {plan.precision}, for {device_line(plan)}"
    yield from (f"parameters   {name} {count:,}" for name, count in plan.parameters.items())
    yield (
        f"memory       at the peak of a step, with micro-batch {plan.micro_batch} x {plan.accumulate} and activation "
        f"checkpointing {plan.activation_checkpointing}"
    )
    for name, size in sorted(plan.memory.by_category.items(), key=lambda item: -item[1]):
        if size > 0:
            yield f"    {human_gib(size):>9}  {name}"
    yield f"    {human_gib(plan.memory.peak_bytes):>9}  in all: the allocator's peak"
    if plan.device == "cuda":
        yield (
            f"    {human_gib(plan.need_bytes):>9}  of the device: the peak x {RESERVED_FACTOR} + "
            f"{human_gib(OUTSIDE_BYTES)} outside of the allocator"
        )
    for fit in plan.fits:
        micro = "none fits" if fit.micro_batch is None else f"largest micro-batch {fit.micro_batch} x {fit.accumulate}"
        with_it = f"activation checkpointing {fit.activation_checkpointing}"
        smallest = " with the smallest" if fit.micro_batch is None else ""
        yield f"fits         {with_it}: {micro}, needs {human_gib(fit.need_bytes)}{smallest}"
    yield from speed_lines(plan)
    yield f"length       {length_line(plan)}"
    yield f"disk         {disk_line(plan)}"
    yield from (f"note         {note}" for note in plan.notes)
    yield from (f"verdict      {text}" for text in verdicts(plan))


def device_line(plan: Plan) -> str:
    if plan.device == "cpu":
        return "the CPU"
    name = f"{plan.gpu.name} GPU" if plan.gpu else "a GPU"
    memory = "memory n/a" if plan.device_memory_bytes is None else f"{human_gib(plan.device_memory_bytes)}"
    return f"{name} ({memory})"


def speed_lines(plan: Plan) -> Iterator[str]:
    flops = plan.flops_per_image
    if flops is None:
        yield "compute      n/a: a plugin's objective computes something else than the formulas know"
        yield "speed        n/a"
        return
    yield f"compute      {flops / 1e12:.3g} TFLOP an image, without what activation checkpointing computes again"
    if plan.images_per_second is not None:
        yield f"speed        {plan.images_per_second:,.1f} images/s at {plan.tflops:g} TFLOP/s"
    elif plan.gpu is not None and plan.most_images_per_second is not None:
        yield (
            f"speed        n/a without --tflops; at the GPU's peak of {plan.gpu.peak_tflops:g} TFLOP/s, which no run "
            f"reaches, it would be {plan.most_images_per_second:,.1f} images/s"
        )
    else:
        yield "speed        n/a: say what the device achieves with --tflops"


def length_line(plan: Plan) -> str:
    if plan.max_steps is None or plan.images_seen is None:
        return "until stopped"
    seen = f"{plan.max_steps:,} optimizer steps x {plan.effective_batch} = {plan.images_seen:,} images"
    epochs = "; epochs n/a: see --images" if plan.epochs is None else f" = {plan.epochs:,.1f} epochs of {plan.images:,}"
    return seen + epochs + ("; hours n/a" if plan.hours is None else f"; {plan.hours:,.1f} hours")


def disk_line(plan: Plan) -> str:
    each = f"{human_bytes(plan.checkpoint_bytes)} a checkpoint"
    if plan.checkpoints is None:
        return f"{each}, every {plan.checkpoint_every_steps:,} steps; the run has no end"
    total = human_bytes(plan.checkpoints * plan.checkpoint_bytes)
    return f"{each}; the run saves {plan.checkpoints:,}, {total} if none is removed"


def to_json(plan: Plan) -> dict[str, Any]:
    """Plain values by name; what is not known is null. Bytes, seconds and FLOPs are numbers."""
    return attrs.asdict(plan) | {
        "need_bytes": plan.need_bytes,
        "fits_as_it_is": plan.fits_as_it_is,
        "images_per_second": plan.images_per_second,
        "most_images_per_second": plan.most_images_per_second,
        "images_seen": plan.images_seen,
        "epochs": plan.epochs,
        "hours": plan.hours,
        "checkpoints": plan.checkpoints,
        "verdicts": verdicts(plan),
    }
