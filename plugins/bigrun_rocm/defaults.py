"""Values for options that nobody has set: a start that should fit, from closed forms and published measurements."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bigrun.planner.closed_form import StepMemory, tokens_of
from bigrun.planner.memory import OUTSIDE_BYTES, RESERVED_FACTORS
from bigrun.same_objective import micro_batches
from bigrun_rocm.known_problems import MICRO_BATCH_CAP

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.devices import DeviceFacts
    from bigrun.model.activation_checkpointing import ActivationCheckpointing

__all__ = ["PREFETCH", "choose_defaults", "device_bytes", "largest_micro_batch", "workers_for"]

GIB = 2**30
WORKERS = 8
"""78, 337, 495, 482, 503 and 485 images per second with 0, 4, 8, 16, 24 and 32 (DINO-X, small images, gfx1151)."""
PREFETCH = 2
"""Micro-batches for each of them, where device and host share their memory."""
LARGEST = {"gfx1151": 64}
"""Micro-batch, 256 elsewhere: ViT-L/14 took 23.5 images per second with 48 and 64, 22.4 with 128 and 160 (DINO-X)."""
COMPARED_BYTES = 28
"""For each number of a matrix product while TunableOp compares kernels (torch 2.13, ATen/cuda/tunable): three results
in bf16, two in fp32, and 14 bytes of torch.allclose. The first backward pass does so when activations take most."""

Defaults = dict[str, tuple[Any, str]]


def device_bytes(memory: StepMemory, micro_batch: int, mode: ActivationCheckpointing, *, compares: bool) -> float:
    """What a run takes of the device.

    Args:
        compares: whether TunableOp compares the results of kernels in the first steps.
    """
    compared = compared_bytes(memory.config, micro_batch) if compares else 0
    return (memory.peak_bytes(micro_batch, mode) + compared) * RESERVED_FACTORS["rocm"] + OUTSIDE_BYTES


def compared_bytes(config: Config, micro_batch: int) -> float:
    """What comparing the largest result of a block takes."""
    model = config.model
    tokens = tokens_of(config) * micro_batch * (1 - model.drop_path_fraction)
    return COMPARED_BYTES * tokens * max(model.ffn_hidden, 3 * model.width)


def choose_defaults(
    facts: DeviceFacts,
    config: Config,
    limit_bytes: int,
    frozen_backbones: int = 0,
    processes: int = 1,
    *,
    compares: bool = False,
) -> Defaults:
    """Options by name, each with a reason; nothing for a device of another kind. They go by what the user has set.

    Args:
        limit_bytes: what the run may take on the device.
        frozen_backbones: networks that plugins keep beside the teacher.
        compares: whether TunableOp compares the results of kernels in the first steps.
    """
    if facts.backend != "rocm":
        return {}
    memory = StepMemory(config, frozen_backbones)

    def taken(size: int, mode: ActivationCheckpointing) -> float:
        return device_bytes(memory, size, mode, compares=compares)

    micro_batch, checkpointing = choose_micro_batch(sizes_of(facts, config, processes), config, taken, limit_bytes)
    gib = taken(micro_batch, checkpointing) / GIB
    room = f"a step should take {gib:.1f} of {limit_bytes / GIB:.1f} GiB, by a closed form"
    speed = f"; larger ones were no faster on {facts.arch}" if micro_batch == LARGEST.get(facts.arch) else ""
    room = room if gib <= limit_bytes / GIB else f"does not fit: {room}"
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
        shared = (PREFETCH, "what waits takes memory that is the GPU's, too")
        chosen["data.prefetch"] = shared if facts.is_unified else (4, "what waits takes memory of the host alone")
    return chosen


def workers_for(facts: DeviceFacts) -> int:
    """Processes that decode."""
    return max(min(WORKERS, facts.host.cpu.usable_cores - 2), 1)


def largest_micro_batch(facts: DeviceFacts, config: Config) -> int:
    """The largest that may be chosen."""
    if "data.micro_batch" in config.explicit and config.data.micro_batch is not None:
        return config.data.micro_batch
    return min(LARGEST.get(facts.arch, 2 * MICRO_BATCH_CAP), config.data.effective_batch)


def sizes_of(facts: DeviceFacts, config: Config, processes: int) -> list[int]:
    """Micro-batches that leave the objective as it is, up to the largest that may be chosen, or the smallest of all."""
    largest = largest_micro_batch(facts, config)
    if "data.micro_batch" in config.explicit and config.data.micro_batch is not None:
        return [largest]
    sizes = micro_batches(config, processes) or [config.data.effective_batch // processes]
    return [size for size in sizes if size <= largest] or sizes[:1]


def choose_micro_batch(
    sizes: list[int],
    config: Config,
    taken: Callable[[int, ActivationCheckpointing], float],
    limit_bytes: int,
) -> tuple[int, ActivationCheckpointing]:
    """The largest that should fit; with activation checkpointing only where nothing fits without.

    Args:
        taken: bytes of the device, by micro-batch and way of activation checkpointing.
    """
    ways: list[ActivationCheckpointing] = ["none", "full"]
    if "hardware.activation_checkpointing" in config.explicit:
        ways = [config.hardware.activation_checkpointing]
    for way in ways:
        size = max((size for size in sizes if taken(size, way) <= limit_bytes), default=None)
        if size is not None:
            return size, way
    return sizes[0], ways[-1]
