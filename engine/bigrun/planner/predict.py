"""From a preset, or from a run, to what it will need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import attrs

from bigrun.config import Config, Document
from bigrun.devices.defaults import BY_DEVICE
from bigrun.devices.host import read_host
from bigrun.planner.communication import Collective, traffic
from bigrun.planner.device import imagined, with_ram
from bigrun.planner.gpus import find_gpu
from bigrun.planner.host_memory import HostMemory
from bigrun.planner.plan import Fit, Plan
from bigrun.planner.rehearsals import Rehearsals
from bigrun.planner.sharing import ALONE, Sharing

if TYPE_CHECKING:
    from bigrun.devices import DeviceFacts
    from bigrun.devices.facts import Backend
    from bigrun.planner.measured import Speed
    from bigrun.planner.rehearsal import Rehearsal
    from bigrun.run import Run

__all__ = ["MODES", "predict", "traffic_of"]

MODES = ("none", "full")
"""Activation checkpointing without and with which the largest micro-batch is sought, beside the preset's own."""


def predict(
    source: Document | Run,
    *,
    device: Backend = "cuda",
    device_memory_bytes: int | None = None,
    gpu: str | None = None,
    ram_bytes: int | None = None,
    tflops: float | None = None,
    images: int | None = None,
    image_bytes: int | None = None,
    measured: Callable[[float | None], Speed | None] = lambda flops_per_image: None,
    sharing: Sharing = ALONE,
    seeks: bool = True,
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
        ram_bytes: memory of the machine; that of this one if not given.
        tflops: that the device achieves.
        images: of the data set.
        image_bytes: of a decoded image, on average.
        measured: what is known of the device's speed, from the model FLOPs of an image where these are known.
        sharing: for how many processes; `[parallel]` says how they share the networks. Memory is that of one.
        seeks: whether the largest micro-batch is sought where the memory of the device is known.
        tell: hears what is being done, some seconds each.

    Raises:
        BigrunError: as the run itself would before its first step.
    """
    known = find_gpu(gpu) if gpu is not None else None
    if device_memory_bytes is None and known is not None:
        device_memory_bytes = known.memory_bytes
    host = with_ram(read_host(), ram_bytes)
    facts: DeviceFacts | None = None
    if not isinstance(source, Document):
        images = len(source.dataset) if images is None else images
        facts, host, source = source.facts, with_ram(source.facts.host, ram_bytes), document_of(source.config)
        device = facts.backend
    elif device != "cpu":
        facts = imagined(known, gpu, device, device_memory_bytes, host)
    rehearsals = Rehearsals(source, device, tell, facts, image_bytes, sharing)
    found = rehearsals.own()
    room = HostMemory(rehearsals.host_bytes(found), host.ram_total_bytes, ram_bytes is None, image_bytes)
    plan = describe(source, found, device, room)
    fits: tuple[Fit, ...] = ()
    if device_memory_bytes is not None and seeks:
        modes = dict.fromkeys([*MODES, found.config.hardware.activation_checkpointing])
        fits = tuple(rehearsals.fit(mode, device_memory_bytes, host.ram_total_bytes) for mode in modes)
    return attrs.evolve(
        plan,
        gpu=known,
        device_memory_bytes=device_memory_bytes,
        tflops=tflops,
        speed=measured(plan.flops_per_image),
        images=images,
        fits=fits,
    )


def describe(document: Document, found: Rehearsal, device: Backend, host: HostMemory) -> Plan:
    """What one rehearsal says."""
    from bigrun.planner.flops import step_flops

    config, flops = found.config, None
    if "objective" not in config.replaced:
        kept = 1 - config.model.drop_path_fraction
        flops = step_flops(config.model, config.views, teacher=found.has_teacher, kept_fraction=kept)
        flops += found.frozen_flops
    assert config.data.micro_batch is not None
    return Plan(
        source=document.source,
        device=device,
        is_unified=found.facts.is_unified,
        segments_grow=found.segments_grow,
        parameters=found.parameters,
        effective_batch=config.data.effective_batch,
        micro_batch=config.data.micro_batch,
        accumulate=found.accumulate,
        activation_checkpointing=config.hardware.activation_checkpointing,
        precision=config.hardware.precision,
        max_steps=config.run.max_steps,
        checkpoint_every_steps=config.run.checkpoint_every_steps,
        memory=found.memory,
        host=host,
        checkpoint_bytes=found.checkpoint_bytes,
        flops_per_image=flops,
        choices=tuple(choice for choice in config.choices if choice.path in BY_DEVICE),
        savings=found.savings,
        notes=tuple(notes_of(found)),
        sharing=found.sharing,
        traffic=traffic_of(found),
    )


def traffic_of(found: Rehearsal) -> tuple[Collective, ...]:
    """What the processes of a rehearsed run send each other in a step."""
    config = found.config
    objective = None if "objective" in config.replaced else config.objective
    compute_bytes = 2 if config.hardware.precision == "bf16" else 4
    class_tokens = config.views.global_crops * config.data.effective_batch
    return traffic(found.units, found.sharing, found.accumulate, compute_bytes, objective, class_tokens)


def notes_of(found: Rehearsal) -> Iterator[str]:
    """What the plan does not know."""
    if found.sharing.processes > 1 and "objective" in found.config.replaced:
        yield f"what {found.config.replaced['objective']} balances over processes is not known, and not counted as sent"
    for name, why in found.refused.items():
        yield (
            f"{name}: its frozen modules are counted, but neither memory nor compute of its part in the step, which "
            f"cannot be rehearsed ({why})"
        )
    for name in found.has_no_choice:
        yield (
            f"{name} may choose micro-batch, activation checkpointing and workers for the GPU: see --gpu and "
            "--device-memory, without which what is planned is the preset's own"
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
