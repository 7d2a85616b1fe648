"""How much memory the GPU may take where it is the host's own."""

from __future__ import annotations

import attrs

from bigrun.devices import DeviceFacts
from bigrun_rocm.driver import DriverFacts

__all__ = ["GIB", "Budget", "host_reserve_bytes", "memory_lines", "unified_budget"]

GIB = 2**30
HOST_BYTES = 4 * GIB
WORKER_BYTES = GIB
"""A starting point, not a measurement: a process with torch takes 0.3 GiB, and its images come on top."""
TAKEN_BYTES = 4 * GIB
"""Taken by others at the start: more than a desktop takes."""


@attrs.frozen
class Budget:
    """What the run may take on the device."""

    limit_bytes: int
    bound_by: str
    """Which limit is the lowest."""
    limits_bytes: dict[str, int]
    """All of them, by name."""

    def line(self) -> str:
        """For the header."""
        others = [f"{name} {size / GIB:.1f}" for name, size in self.limits_bytes.items() if name != self.bound_by]
        beside = f"; others: {', '.join(others)}" if others else ""
        return f"{self.limit_bytes / GIB:.1f} GiB for the run, by {self.bound_by}{beside}"


def host_reserve_bytes(workers: int, wish_gib: float | None) -> int:
    """What the host keeps for itself: system and checkpoints on their way to the disk, and processes that decode."""
    return HOST_BYTES + workers * WORKER_BYTES if wish_gib is None else round(wish_gib * GIB)


def unified_budget(facts: DeviceFacts, driver: DriverFacts, reserve_bytes: int) -> Budget:
    """The lowest of what torch sees, what the driver lets the GPU map, and what the host can do without.

    Device and host share one memory: what is set aside for the GPU (VRAM), and of the rest what it maps (GTT).
    """
    limits = {"torch": facts.total_bytes}
    vram, gtt = driver.vram_free_bytes, driver.gtt_free_bytes
    if vram is not None and gtt is not None:
        limits["VRAM and GTT"] = vram + gtt
    if vram is not None:
        limits["the host's free memory"] = vram + max(facts.host.ram_free_bytes - reserve_bytes, 0)
    bound_by = min(limits, key=lambda name: limits[name])
    return Budget(min(limits[bound_by], facts.total_bytes), bound_by, limits)


def memory_lines(facts: DeviceFacts, driver: DriverFacts, budget: Budget) -> list[str]:
    """What people should know of it."""
    lines = [f"memory       {budget.line()}"]
    if driver.vram_total_bytes is None:
        lines.append(
            "warning      the driver does not say how much memory is set aside for the GPU (mem_info_vram_total in "
            "/sys/class/drm): the budget does not know what the host needs"
        )
        return lines
    installed = driver.vram_total_bytes + facts.host.ram_total_bytes
    if facts.total_bytes < 0.6 * installed:
        lines.append(
            f"memory       the GPU may use {facts.total_bytes / GIB:.1f} of {installed / GIB:.0f} GiB; more with "
            f"`amd-ttm --set` (TTM's limit is {_gib(driver.ttm_limit_bytes)}) and a restart"
        )
    if facts.total_bytes - facts.free_bytes > TAKEN_BYTES:
        lines.append(
            f"warning      of the GPU's {facts.total_bytes / GIB:.1f} GiB only {facts.free_bytes / GIB:.1f} are free: "
            "another process has taken the rest"
        )
    return lines


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / GIB:.1f} GiB"
