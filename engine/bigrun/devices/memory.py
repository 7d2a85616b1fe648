"""The memory of a GPU, by its driver."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from bigrun.devices.host import available_bytes

if TYPE_CHECKING:
    import torch

__all__ = ["DeviceMemory", "read_memory"]


@attrs.frozen
class DeviceMemory:
    """How much there is, and how much a process can still have."""

    total_bytes: int
    free_bytes: int
    counts_host: bool = False
    """Whether programs of the host have some of what is not free: device and host share it, without a border."""


def read_memory(device: torch.device, *, is_unified: bool, root: Path = Path("/")) -> DeviceMemory:
    """Ask the driver; nothing waits for the device.

    Where an NVIDIA GPU shares the host's memory (Jetson, DGX Spark) the driver calls pages free that nobody has, and
    not those that hold copies of files, which the kernel gives back when it needs them. After an hour of reading images
    these are nearly all: there what Linux calls available is free, if it is more
    (https://docs.nvidia.com/cuda/cuda-for-tegra-appnote/, "Estimating Total Allocatable Device Memory").

    Args:
        is_unified: `DeviceFacts.is_unified`.
        root: where `proc` is.
    """
    import torch

    free, total = torch.cuda.mem_get_info(device)
    if not is_unified or torch.version.hip:
        return DeviceMemory(total, free)
    return DeviceMemory(total, max(free, min(available_bytes(root), total)), counts_host=True)
