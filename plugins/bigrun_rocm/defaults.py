"""Values for options that nobody has set: a start that should fit, from closed forms and published measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bigrun.planner.closed_form import StepMemory
from bigrun.planner.memory import OUTSIDE_BYTES
from bigrun_rocm.known_problems import MICRO_BATCH_CAP

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.devices import DeviceFacts
    from bigrun.model.activation_checkpointing import ActivationCheckpointing

__all__ = ["WORKERS", "choose_defaults", "device_bytes", "workers_for"]

GIB = 2**30
WORKERS = 8
"""78, 337, 495, 482, 503 and 485 images per second with 0, 4, 8, 16, 24 and 32 (DINO-X, small images, gfx1151)."""
LARGEST = {"gfx1151": 64}
"""Micro-batch, 256 elsewhere: ViT-L/14 took 23.5 images per second with 48 and 64, 22.4 with 128 and 160 (DINO-X)."""
RESERVED = 1.25
"""What the allocator takes for each byte in tensors at most, without segments that grow, which are off on ROCm: 1.1 to
1.25. The form's own error, 3 % too low at most, is within it."""

Defaults = dict[str, tuple[Any, str]]


def device_bytes(memory: StepMemory, micro_batch: int, mode: ActivationCheckpointing) -> float:
    """What a run takes of the device."""
    return memory.peak_bytes(micro_batch, mode) * RESERVED + OUTSIDE_BYTES


def choose_defaults(
    facts: DeviceFacts, config: Config, limit_bytes: int, frozen_backbones: int = 0, processes: int = 1
) -> Defaults:
    """Options by name, each with a reason; nothing for a device of another kind. They go by what the user has set.

    Args:
        limit_bytes: what the run may take on the device.
        frozen_backbones: networks that plugins keep beside the teacher.
    """
    if facts.backend != "rocm":
        return {}
    memory = StepMemory(config, frozen_backbones)
    micro_batch, checkpointing = choose_micro_batch(facts, memory, limit_bytes, processes)
    gib = device_bytes(memory, micro_batch, checkpointing) / GIB
    room = f"a step should take {gib:.1f} of {limit_bytes / GIB:.1f} GiB, by a closed form"
    speed = f"; larger ones were no faster on {facts.arch}" if micro_batch == LARGEST.get(facts.arch) else ""
    chosen: dict[str, tuple[Any, str]] = {
        "data.micro_batch": (micro_batch, room + speed),
        "hardware.activation_checkpointing": (checkpointing, room),
        "data.workers": (
            workers_for(facts),
            "more were no faster on gfx1151; two processors are left for the rest",
        ),
        "hardware.pin_memory": (True, "images came 6 % faster on gfx1151, and pages that are not pinned may hang"),
    }
    if not ("data.workers" in config.explicit and config.data.workers == 0):
        shared = (2, "what waits takes memory that is the GPU's, too")
        chosen["data.prefetch"] = shared if facts.is_unified else (4, "what waits takes memory of the host alone")
    return chosen


def workers_for(facts: DeviceFacts) -> int:
    """Processes that decode."""
    return max(min(WORKERS, facts.host.cpu.usable_cores - 2), 1)


def choose_micro_batch(
    facts: DeviceFacts, memory: StepMemory, limit_bytes: int, processes: int
) -> tuple[int, ActivationCheckpointing]:
    """The largest micro-batch that should fit, of whole groups of KoLeo; with activation checkpointing only where
    nothing fits without."""
    config, share = memory.config, memory.config.data.effective_batch // processes
    group = (config.objective.koleo_group or 1) if config.objective.koleo_weight > 0 else 1
    largest = LARGEST.get(facts.arch, 2 * MICRO_BATCH_CAP)
    sizes = [size for size in range(group, share + 1, group) if share % size == 0 and size <= max(largest, group)]
    if "data.micro_batch" in config.explicit and config.data.micro_batch is not None:
        sizes = [config.data.micro_batch]
    ways: list[ActivationCheckpointing] = ["none", "full"]
    if "hardware.activation_checkpointing" in config.explicit:
        ways = [config.hardware.activation_checkpointing]
    for way in ways:
        fits = (s for s in sizes if device_bytes(memory, s, way) <= limit_bytes)
        size = max(fits, default=None)
        if size is not None:
            return size, way
    return min(sizes, default=share), ways[-1]
