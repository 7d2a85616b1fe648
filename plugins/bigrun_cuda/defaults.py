"""Values for options that nobody has set: what should fit into the GPU, and how many processes decode for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from bigrun.planner.closed_form import StepMemory, tokens_of
from bigrun.planner.memory import OUTSIDE_BYTES, reserved_factor
from bigrun.same_objective import micro_batches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bigrun.config import Config
    from bigrun.devices import DeviceFacts
    from bigrun.model.activation_checkpointing import ActivationCheckpointing

__all__ = ["Fit", "choose_defaults", "device_bytes", "fit", "usable_bytes"]

GIB = 2**30
USABLE_FRACTION = 0.95
"""The closed form is up to 3 % too low beside fake runs; on a GPU nobody has compared it yet."""
ENOUGH_TOKENS = 8192
"""In a micro-batch: matrix products of so many rows keep a GPU busy, and more images at a time gain little. A smaller
one pays for activation checkpointing with a third more work, and is then better off with it."""
MOST_TOKENS = 131_072
"""Beyond that nothing is gained: the micro-batch only takes memory."""
LARGE_GPU_BYTES = 60 * GIB
MUCH_MEMORY_BYTES = 48 * GIB
"""Of a machine in which each worker may keep four micro-batches: images of 10 MB, 64 of them, 8 workers: 20 GB."""


@attrs.frozen
class Fit:
    """What should fit."""

    micro_batch: int
    mode: ActivationCheckpointing
    bytes: float
    """On the device, as expected."""
    fits: bool = True


def device_bytes(memory: StepMemory, micro_batch: int, mode: ActivationCheckpointing, *, grows: bool = True) -> float:
    """What a run takes of the device.

    Args:
        grows: whether segments of torch's allocator do.
    """
    return memory.peak_bytes(micro_batch, mode) * reserved_factor("cuda", grows=grows) + OUTSIDE_BYTES


def usable_bytes(facts: DeviceFacts) -> float:
    """What it may take, less the form's error. Of the whole device, and not of what is free at the moment: a run that
    is continued beside another program would have another micro-batch, and other numbers."""
    return USABLE_FRACTION * facts.total_bytes


def sizes_of(config: Config, processes: int) -> list[int]:
    """Micro-batches that leave the objective as it is, from the smallest."""
    data = config.data
    if "data.micro_batch" in config.explicit and data.micro_batch is not None:
        return [data.micro_batch]
    return micro_batches(config, processes) or [data.effective_batch // processes]


def modes_of(config: Config) -> tuple[ActivationCheckpointing, ...]:
    """From the fastest."""
    if "hardware.activation_checkpointing" in config.explicit:
        return (config.hardware.activation_checkpointing,)
    return ("none", "selective", "full")


def fits_in(memory: StepMemory, sizes: list[int], limit: float, *, grows: bool) -> Iterator[Fit]:
    """The largest micro-batch that fits in each mode, where one does."""
    for mode in modes_of(memory.config):
        fitting = [size for size in sizes if device_bytes(memory, size, mode, grows=grows) <= limit]
        if fitting:
            yield Fit(fitting[-1], mode, device_bytes(memory, fitting[-1], mode, grows=grows))


def fit(memory: StepMemory, limit: float, tokens: int, processes: int = 1, *, grows: bool = True) -> Fit:
    """The fastest mode in which a micro-batch of enough tokens fits; else the largest micro-batch that fits at all.

    Args:
        tokens: of the student for each image.
        grows: whether segments of torch's allocator do.
    """
    sizes = sizes_of(memory.config, processes)
    useful = [size for size in sizes if size * tokens <= MOST_TOKENS] or sizes[:1]
    found = list(fits_in(memory, useful, limit, grows=grows))
    if not found:
        mode = modes_of(memory.config)[-1]
        return Fit(sizes[0], mode, device_bytes(memory, sizes[0], mode, grows=grows), fits=False)
    largest = max(each.micro_batch for each in found)
    enough = min(largest, -(-ENOUGH_TOKENS // tokens))
    return next(each for each in found if each.micro_batch >= enough)


def choose_defaults(
    facts: DeviceFacts, config: Config, frozen_backbones: int = 0, processes: int = 1, *, grows: bool = True
) -> dict[str, tuple[Any, str]]:
    """Values and reasons by option.

    Args:
        grows: whether segments of torch's allocator do.
    """
    cores, is_large = facts.host.cpu.usable_cores, facts.total_bytes >= LARGE_GPU_BYTES
    prefetch = 4 if facts.host.ram_total_bytes >= MUCH_MEMORY_BYTES else 2
    workers = max(min(16 if is_large else 8, cores // processes - 2), 1)
    chosen: dict[str, tuple[Any, str]] = {
        "data.workers": (workers, f"{cores} processor cores, of which the run itself needs two"),
        "data.prefetch": (prefetch, f"{facts.host.ram_total_bytes / GIB:.0f} GiB of memory in the machine"),
        "hardware.pin_memory": (True, "copies to an NVIDIA GPU go on beside its work only from page-locked memory"),
    }
    if config.replaced:  # another objective: nothing is known of its memory
        return chosen
    limit = usable_bytes(facts)
    best = fit(StepMemory(config, frozen_backbones), limit, tokens_of(config), processes, grows=grows)
    expected, available = f"{best.bytes / GIB:.1f} GiB expected", f"{limit / GIB:.1f} GiB"
    why = f"{expected} of {available}" if best.fits else f"does not fit: {expected}, {available} there"
    if best.fits and best.bytes > facts.free_bytes > 0:
        why += f"; only {facts.free_bytes / GIB:.1f} GiB are free now: end what else uses the GPU"
    chosen["data.micro_batch"] = (best.micro_batch, why)
    chosen["hardware.activation_checkpointing"] = (best.mode, why)
    return chosen
