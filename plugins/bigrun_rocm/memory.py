"""How much memory the GPU may take where it is the host's own. All of it by what there is, not by what is free at the
start: a run that is continued beside another program must not get another micro-batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from bigrun.devices import DeviceFacts
from bigrun_rocm.allocator import LARGEST_FRACTION
from bigrun_rocm.checkpoint_copy import pinned_copy_bytes
from bigrun_rocm.driver import DriverFacts

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun_rocm.config import RocmConfig

__all__ = ["GIB", "Budget", "HostNeed", "expected_limit", "host_need", "memory_lines", "unified_budget"]

GIB = 2**30
SYSTEM_BYTES = 4 * GIB
"""A desktop, the run's own process and what it reads: a starting point, not a measurement."""
WORKER_BYTES = GIB // 2
"""A process with torch takes 0.3 GiB, and decodes one image at a time."""
IMAGE_BYTES = 4 * 10**6
"""Decoded, as it waits: a photograph of 1,300 x 1,000 pixels, a CT slice of 1,400 x 1,400 of 16 bits. An assumption:
what the images of a run take is not known when its micro-batch is chosen."""

TAKEN_BYTES = 4 * GIB
"""That others may have taken without a word: more than a desktop does."""


@attrs.frozen
class HostNeed:
    """What the budget leaves to the host."""

    system_bytes: int
    workers_bytes: int = 0
    """Processes that decode, and the images that wait for their turn."""
    checkpoint_bytes: int = 0
    """The copy from which a checkpoint is written while training goes on."""

    @property
    def bytes(self) -> int:
        return self.system_bytes + self.workers_bytes + self.checkpoint_bytes

    def __str__(self) -> str:
        parts = {"workers": self.workers_bytes, "the copy of a checkpoint": self.checkpoint_bytes}
        named = [f"{name} {size / GIB:.1f}" for name, size in parts.items() if size]
        return f"{self.bytes / GIB:.1f} GiB" + (f" ({', '.join(named)})" if named else "")


def host_need(
    config: Config, workers: int, prefetch: int, micro_batch: int, frozen_backbones: int, wish_gib: float | None
) -> HostNeed:
    """What the host needs for itself in a run.

    Args:
        micro_batch: the largest that may be chosen.
        frozen_backbones: networks that plugins keep beside the teacher, and in checkpoints.
        wish_gib: all of it, by the user.
    """
    if wish_gib is not None:
        return HostNeed(round(wish_gib * GIB))
    waiting = prefetch * micro_batch * IMAGE_BYTES
    copy = pinned_copy_bytes(config, frozen_backbones) if config.run.background_checkpoints else 0
    return HostNeed(SYSTEM_BYTES, workers * (WORKER_BYTES + waiting), copy)


@attrs.frozen
class Budget:
    """What the run may take on the device."""

    limit_bytes: int
    bound_by: str
    """Which limit is the lowest."""
    limits_bytes: dict[str, int]
    """All of them, by name."""
    need: HostNeed

    def line(self) -> str:
        """For the header."""
        others = [f"{name} {size / GIB:.1f}" for name, size in self.limits_bytes.items() if name != self.bound_by]
        beside = f"; others: {', '.join(others)}" if others else ""
        return f"{self.limit_bytes / GIB:.1f} GiB for the run, by {self.bound_by}{beside}; the host needs {self.need}"


def unified_budget(facts: DeviceFacts, driver: DriverFacts, need: HostNeed) -> Budget:
    """The lowest of what torch sees, what the driver lets the GPU map, and what the host can do without.

    Device and host share one memory: what is set aside for the GPU (VRAM), and of the rest what it maps (GTT).
    """
    limits = {"torch": facts.total_bytes}
    vram, gtt = driver.vram_total_bytes, driver.gtt_limit_bytes
    if vram is not None and gtt is not None:
        limits["VRAM and GTT"] = vram + gtt
    if vram is not None:
        limits["what the host can spare"] = vram + max(facts.host.ram_total_bytes - need.bytes, 0)
    bound_by = min(limits, key=lambda name: limits[name])
    return Budget(limits[bound_by], bound_by, limits, need)


def expected_limit(facts: DeviceFacts, config: RocmConfig) -> int:
    """What a run may take of a device that is not here, of whose driver nothing is known."""
    most, wish = LARGEST_FRACTION * facts.total_bytes, config.memory_limit_gib
    return round(most if wish is None else min(wish * GIB, most))


def memory_lines(facts: DeviceFacts, driver: DriverFacts, budget: Budget) -> list[str]:
    """What people should know of it."""
    lines = [f"memory       {budget.line()}"]
    vram, ram = driver.vram_total_bytes, facts.host.ram_total_bytes
    if vram is None:
        lines.append(
            "warning      the driver does not say how much memory is set aside for the GPU (mem_info_vram_total in "
            "/sys/class/drm): the budget does not know what the host needs"
        )
    elif facts.total_bytes < 0.6 * (vram + ram):
        lines.append(
            f"memory       the GPU may use {facts.total_bytes / GIB:.1f} of {(vram + ram) / GIB:.0f} GiB; more with "
            f"`amd-ttm --set` (TTM's limit is {_gib(driver.ttm_limit_bytes)}) and a restart"
        )
    if budget.need.bytes > ram:
        lines.append(
            f"warning      the host has {ram / GIB:.1f} GiB and needs {budget.need}: set less memory aside for the GPU "
            "in the BIOS, data.workers lower, or run.background_checkpoints = false"
        )
    free = free_now(facts, driver, budget.need)
    if free + TAKEN_BYTES < budget.limit_bytes:
        lines.append(
            f"warning      of {budget.limit_bytes / GIB:.1f} GiB for the run {free / GIB:.1f} are free at the moment: "
            "end what else uses the memory; nothing is chosen by it"
        )
    return lines


def free_now(facts: DeviceFacts, driver: DriverFacts, need: HostNeed) -> int:
    """What the run could take at the moment: by what torch says and, where the driver tells of its pools, by what the
    host has beside what the run's own processes and checkpoints will take of it."""
    found = [facts.free_bytes]
    if driver.vram_total_bytes is not None:
        vram = driver.vram_total_bytes - (driver.vram_used_bytes or 0)
        found.append(vram + max(facts.host.ram_free_bytes - need.workers_bytes - need.checkpoint_bytes, 0))
    return min(found)


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / GIB:.1f} GiB"
