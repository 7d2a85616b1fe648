"""How full the memories of device and machine are."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import attrs

from bigrun.devices.host import memory_bytes
from bigrun.devices.memory import read_memory

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
    is_of_host: bool = False
    """Whether programs of the host have some of what is not free: `DeviceMemory.counts_host`."""
    limit_bytes: int | None = None
    """That torch's allocator may reserve (`torch.cuda.set_per_process_memory_fraction`); None where it has no limit."""
    allocated_bytes: int | None = None
    """In tensors."""
    peak_bytes: int | None = None
    """The most in tensors since the process began, or since somebody has reset torch's statistics."""
    reserved_bytes: int | None = None
    """That torch's allocator has taken from the driver."""
    retries: int | None = None
    """How often it gave back all it could and asked again, since the process began."""

    @property
    def room_bytes(self) -> int | None:
        """What torch's allocator can still take from the driver."""
        if self.free_bytes is None or self.limit_bytes is None or self.reserved_bytes is None:
            return self.free_bytes
        return min(self.free_bytes, max(self.limit_bytes - self.reserved_bytes, 0))

    @property
    def used_bytes(self) -> int | None:
        """By the driver: what all processes have."""
        return None if self.total_bytes is None or self.free_bytes is None else self.total_bytes - self.free_bytes

    @property
    def foreign_bytes(self) -> int | None:
        """What others have: the context of the driver, libraries, other processes. None where programs of the host,
        which do not use the device, cannot be told from them."""
        used = None if self.is_of_host else self.used_bytes
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


def read(device: torch.device, *, is_unified: bool = False) -> Reading:
    """Read counters of torch and of the driver: nothing waits for the device.

    Args:
        is_unified: device and host share their memory.
    """
    host = HostReading(*memory_bytes())
    if device.type != "cuda":
        return Reading(host)
    import torch

    memory, stats = read_memory(device, is_unified=is_unified), torch.cuda.memory_stats(device)
    fraction = torch.cuda.memory.get_per_process_memory_fraction(device)
    return Reading(
        host,
        total_bytes=memory.total_bytes,
        free_bytes=memory.free_bytes,
        is_of_host=memory.counts_host,
        limit_bytes=int(fraction * memory.total_bytes) if fraction < 1 else None,
        allocated_bytes=stats["allocated_bytes.all.current"],
        peak_bytes=stats["allocated_bytes.all.peak"],
        reserved_bytes=stats["reserved_bytes.all.current"],
        retries=stats["num_alloc_retries"],
    )
