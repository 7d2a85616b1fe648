"""A plan in lines for people, and as JSON. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from bigrun.checkpoint.space import human_bytes
from bigrun.planner.cluster import Cluster
from bigrun.planner.cluster_report import cluster_lines, cluster_to_json
from bigrun.planner.host_memory import ASSUMED_IMAGE_BYTES
from bigrun.planner.memory import OUTSIDE_BYTES, RESERVED_FACTORS, reserved_factor
from bigrun.planner.plan import Plan
from bigrun.planner.sharing import Sharing
from bigrun.planner.sizes import human_gib
from bigrun.planner.verdict import verdicts

__all__ = ["lines", "to_json"]


def lines(plan: Plan, cluster: Cluster | None = None) -> Iterator[str]:
    """The whole plan; verdicts last.

    Args:
        cluster: the same plan with what its processes tell each other.
    """
    yield f"plan         {plan.source}, in {plan.precision}, for {device_line(plan)}"
    yield from (f"chosen       {choice.path} = {choice.value} ({choice.why})" for choice in plan.choices)
    yield from (f"parameters   {name} {count:,}" for name, count in plan.parameters.items())
    yield from device_lines(plan)
    yield from host_lines(plan)
    for fit in plan.fits:
        micro = "none fits" if fit.micro_batch is None else f"largest micro-batch {fit.micro_batch} x {fit.accumulate}"
        with_it = f"activation checkpointing {fit.activation_checkpointing}"
        smallest = " with the smallest" if fit.micro_batch is None else ""
        yield f"fits         {with_it}: {micro}, needs {human_gib(fit.need_bytes)}{smallest}"
    yield from speed_lines(plan)
    yield from cluster_lines(cluster) if cluster is not None else ()
    yield f"length       {length_line(plan)}"
    yield f"disk         {disk_line(plan)}"
    yield from (f"note         {note}" for note in plan.notes)
    yield from (f"verdict      {text}" for text in verdicts(plan))


def device_lines(plan: Plan) -> Iterator[str]:
    yield (
        f"memory       at the peak of a step, with micro-batch {plan.micro_batch} x {plan.accumulate} and activation "
        f"checkpointing {plan.activation_checkpointing}{sharing_words(plan.sharing)}"
    )
    yield from category_lines(plan.memory.by_category)
    yield f"    {human_gib(plan.memory.peak_bytes):>9}  in all: the allocator's peak"
    if plan.device in RESERVED_FACTORS:
        factor = reserved_factor(plan.device, grows=plan.segments_grow)
        yield (
            f"    {human_gib(plan.need_bytes):>9}  of the device: the peak x {factor} + {human_gib(OUTSIDE_BYTES)} "
            "outside of the allocator"
        )


def sharing_words(sharing: Sharing) -> str:
    if sharing.processes == 1:
        return ""
    groups = f" in {sharing.groups} groups" if sharing.groups > 1 else ""
    how = f", which have shards of 1/{sharing.shards}" if sharing.strategy == "fsdp" else ""
    return f", on each of {sharing.processes} processes ({sharing.strategy}{groups}){how}"


def host_lines(plan: Plan) -> Iterator[str]:
    host = plan.host
    where = "which the device shares" if plan.is_unified else "beside the device's"
    every = "" if plan.sharing.per_node == 1 else f", of {plan.sharing.per_node} processes"
    yield f"host memory  {where}, estimated{every}"
    yield from category_lines(host.by_category)
    images = (
        f"images of {human_bytes(ASSUMED_IMAGE_BYTES)}, an assumption"
        if host.image_bytes is None
        else f"images of {human_bytes(host.image_bytes)}, as a few of them are"
    )
    yield f"    {human_gib(host.bytes):>9}  in all, with {images}"


def category_lines(by_category: Mapping[str, int]) -> Iterator[str]:
    for name, size in sorted(by_category.items(), key=lambda item: -item[1]):
        if size > 0:
            yield f"    {human_gib(size):>9}  {name}"


def device_line(plan: Plan) -> str:
    if plan.device == "cpu":
        return "the CPU"
    kind = "an AMD GPU" if plan.device == "rocm" else "a GPU"
    name = f"{plan.gpu.name} GPU" if plan.gpu else kind
    memory = "memory n/a" if plan.device_memory_bytes is None else f"{human_gib(plan.device_memory_bytes)}"
    return f"{name} ({memory})"


def speed_lines(plan: Plan) -> Iterator[str]:
    flops = plan.flops_per_image
    if flops is None:
        yield "compute      n/a: a plugin's objective computes something else than the formulas know"
        yield "speed        n/a"
        return
    yield f"compute      {flops / 1e12:.3g} TFLOP an image, without what activation checkpointing computes again"
    if plan.sharing.processes > 1:
        return
    speed, measured = plan.images_per_second, plan.speed
    if speed is not None and plan.tflops is not None:
        yield f"speed        {speed:,.1f} images/s at {plan.tflops:g} TFLOP/s"
    elif speed is not None and measured is not None:
        yield (
            f"speed        {speed:,.1f} images/s at {measured.training_tflops:.3g} TFLOP/s, as measured on "
            f"{measured.device} ({measured.source})"
        )
    elif plan.most_images_per_second is not None:
        most = f"{plan.most_tflops:.4g} TFLOP/s"
        what = f"the GPU's peak of {most}"
        if measured is not None:
            what = f"{most}, that of large matrix products on {measured.device} ({measured.source})"
        yield (
            f"speed        n/a without --tflops or --measured; at {what}, which no run reaches, it would be "
            f"{plan.most_images_per_second:,.1f} images/s"
        )
    else:
        yield "speed        n/a: say what the device achieves with --tflops, or where it was measured with --measured"


def length_line(plan: Plan) -> str:
    if plan.max_steps is None or plan.images_seen is None:
        return "until stopped"
    seen = f"{plan.max_steps:,} optimizer steps x {plan.effective_batch} = {plan.images_seen:,} images"
    epochs = "; epochs n/a: see --images" if plan.epochs is None else f" = {plan.epochs:,.1f} epochs of {plan.images:,}"
    if plan.sharing.processes > 1:
        return seen + epochs
    return seen + epochs + ("; hours n/a" if plan.hours is None else f"; {plan.hours:,.1f} hours")


def disk_line(plan: Plan) -> str:
    each = f"{human_bytes(plan.checkpoint_bytes)} a checkpoint"
    if plan.checkpoints is None:
        return f"{each}, every {plan.checkpoint_every_steps:,} steps; the run has no end"
    total = human_bytes(plan.checkpoints * plan.checkpoint_bytes)
    return f"{each}; the run saves {plan.checkpoints:,}, {total} if none is removed"


def to_json(plan: Plan, cluster: Cluster | None = None) -> dict[str, Any]:
    """Plain values by name; what is not known is null. Bytes, seconds and FLOPs are numbers."""
    own = attrs.asdict(plan, filter=lambda field, _: field.name not in ("sharing", "traffic"))
    more = {} if cluster is None else {"cluster": cluster_to_json(cluster)}
    return (
        own
        | more
        | {
            "host": attrs.asdict(plan.host) | {"bytes": plan.host.bytes},
            "need_bytes": plan.need_bytes,
            "taken_bytes": plan.taken_bytes,
            "fits_as_it_is": plan.fits_as_it_is,
            "images_per_second": plan.images_per_second,
            "most_images_per_second": plan.most_images_per_second,
            "images_seen": plan.images_seen,
            "epochs": plan.epochs,
            "hours": plan.hours,
            "checkpoints": plan.checkpoints,
            "verdicts": verdicts(plan),
        }
    )
