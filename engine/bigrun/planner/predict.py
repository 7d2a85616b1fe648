"""From a preset, or from a run, to what it will need."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from bigrun.config import Config, Document
from bigrun.planner.gpus import find_gpu
from bigrun.planner.plan import DeviceKind, Fit, Plan
from bigrun.planner.rehearsals import Rehearsals

if TYPE_CHECKING:
    from bigrun.planner.rehearsal import Rehearsal
    from bigrun.run import Run

__all__ = ["MODES", "predict"]

MODES = ("none", "full")
"""Activation checkpointing without and with which the largest micro-batch is sought, beside the preset's own."""


def predict(
    source: Document | Run,
    *,
    device: DeviceKind = "cuda",
    device_memory_bytes: int | None = None,
    gpu: str | None = None,
    tflops: float | None = None,
    images: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Predict memory, time and disk of a run, without a GPU and without its images.

    Nothing is written, no device is used, and random generators are left as they were. It takes some seconds, and
    several times as long where the memory of the device is known and the largest micro-batch is sought.

    Args:
        source: a preset, or a run that has been built: then the plan is for its device, and `images` are its own.
        device: what to plan for; on a GPU other kernels run and allocations are rounded.
        device_memory_bytes: what torch calls the total capacity; that of `gpu` if not given.
        gpu: a part of the name of one of `bigrun.planner.gpus.GPUS`; one that is not listed says nothing.
        tflops: that the device achieves.
        images: of the data set.
        tell: hears what is being done, some seconds each.

    Raises:
        BigrunError: as the run itself would before its first step.
    """
    if not isinstance(source, Document):
        device = "cuda" if source.device.type == "cuda" else "cpu"
        images = len(source.dataset) if images is None else images
        source = document_of(source.config)
    rehearsals = Rehearsals(source, device, tell)
    found = rehearsals.own()
    known = find_gpu(gpu) if gpu is not None else None
    if device_memory_bytes is None and known is not None:
        device_memory_bytes = known.memory_bytes
    plan = describe(source, found, device)
    fits: tuple[Fit, ...] = ()
    if device_memory_bytes is not None:
        modes = dict.fromkeys([*MODES, found.config.hardware.activation_checkpointing])
        fits = tuple(rehearsals.fit(mode, device_memory_bytes) for mode in modes)
    return attrs.evolve(
        plan, gpu=known, device_memory_bytes=device_memory_bytes, tflops=tflops, images=images, fits=fits
    )


def describe(document: Document, found: Rehearsal, device: DeviceKind) -> Plan:
    """What one rehearsal says."""
    from bigrun.planner.flops import step_flops

    config, flops = found.config, None
    if "objective" not in config.replaced:
        flops = step_flops(config.model, config.views, teacher=found.has_teacher) + found.frozen_flops
    assert config.data.micro_batch is not None
    return Plan(
        source=document.source,
        device=device,
        parameters=found.parameters,
        effective_batch=config.data.effective_batch,
        micro_batch=config.data.micro_batch,
        accumulate=found.accumulate,
        activation_checkpointing=config.hardware.activation_checkpointing,
        precision=config.hardware.precision,
        max_steps=config.run.max_steps,
        checkpoint_every_steps=config.run.checkpoint_every_steps,
        memory=found.memory,
        checkpoint_bytes=found.checkpoint_bytes,
        flops_per_image=flops,
        notes=tuple(
            f"{name}: its frozen modules are counted, but neither memory nor compute of its part in the step, which "
            f"cannot be rehearsed ({why})"
            for name, why in found.refused.items()
        ),
    )


def document_of(config: Config) -> Document:
    """A preset of the same run, in which what a rule chose is open again."""
    tables = config.tables()
    kept = ("data.micro_batch", "hardware.activation_checkpointing")
    for choice in config.choices:
        table, _, option = choice.path.partition(".")
        if choice.path not in kept:
            tables.get(table, {}).pop(option, None)
    return Document(config.source, config.name, tables)
