"""How full the memories of device and machine are."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import attrs

from bigrun.devices.host import memory_bytes

if TYPE_CHECKING:
    import torch

__all__ = ["HostReading", "Reading", "peak_of_process", "read"]


@attrs.frozen
class HostReading:
    """Of the machine, within a container's limit."""

    total_bytes: int
    free_bytes: int
    """That can be had without swapping."""


@attrs.frozen
class Reading:
    """Of the device and its machine; of a run on the CPU both are one, and torch counts nothing."""

    host: HostReading
    total_bytes: int | None = None
    free_bytes: int | None = None
    """By the driver: what no process has."""
    allocated_bytes: int | None = None
    """In tensors."""
    peak_bytes: int | None = None
    """The most in tensors since the process began, or since somebody has reset torch's statistics."""
    reserved_bytes: int | None = None
    """That torch's allocator has taken from the driver."""
    retries: int | None = None
    """How often it gave back all it could and asked again, since the process began."""

    @property
    def used_bytes(self) -> int | None:
        """By the driver: what all processes have."""
        return None if self.total_bytes is None or self.free_bytes is None else self.total_bytes - self.free_bytes

    @property
    def foreign_bytes(self) -> int | None:
        """What others have: the context of the driver, libraries, other processes."""
        used = self.used_bytes
        return None if used is None or self.reserved_bytes is None else max(used - self.reserved_bytes, 0)

    @property
    def fragmentation(self) -> float | None:
        """Share of the reserved memory that was in no tensor when most was."""
        if not self.reserved_bytes or self.peak_bytes is None:
            return None
        return 1 - self.peak_bytes / self.reserved_bytes


def peak_of_process() -> int:
    """The most memory, in bytes, that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read(device: torch.device) -> Reading:
    """Read counters of torch and of the driver: nothing waits for the device."""
    host = HostReading(*memory_bytes())
    if device.type != "cuda":
        return Reading(host)
    import torch

    free, total = torch.cuda.mem_get_info(device)
    stats = torch.cuda.memory_stats(device)
    return Reading(
        host,
        total_bytes=total,
        free_bytes=free,
        allocated_bytes=stats["allocated_bytes.all.current"],
        peak_bytes=stats["allocated_bytes.all.peak"],
        reserved_bytes=stats["reserved_bytes.all.current"],
        retries=stats["num_alloc_retries"],
    )
