"""Memory of the machine around the device, by what it holds. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from bigrun.planner.sharing import ALONE, Sharing

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.devices.facts import Backend

__all__ = [
    "ASSUMED_IMAGE_BYTES",
    "COPY",
    "IMAGES",
    "NETWORKS",
    "PROCESS",
    "PROCESS_BYTES",
    "WORKERS",
    "WORKER_BYTES",
    "HostMemory",
    "host_categories",
    "of_first_process",
    "pinned_bytes",
]  # fmt: skip

GIB = 2**30
MIB = 2**20

PROCESS = "process"
"""The program itself: Python, torch, libraries of the GPU."""
WORKERS = "workers"
IMAGES = "decoded images"
"""Those of the step, and those that workers have decoded ahead."""
COPY = "copy of the state"
"""From which a checkpoint is written while training goes on; kept from the first one on."""

NETWORKS = "networks, while they are built"
"""Whole ones, in each process, before it moves them to its device or keeps its shards: as much of them as all that
comes later does not take."""

PROCESS_BYTES = {"cpu": GIB // 2, "cuda": 3 * GIB, "rocm": 3 * GIB}
"""0.36 GiB were measured on a CPU before there were networks; those of a GPU are an estimate."""
WORKER_BYTES = 100 * MIB
"""75 were measured on a CPU: 25 of its own and a share of what it began as (images of 512 x 512, Pillow)."""
ASSUMED_IMAGE_BYTES = 3 * MIB
"""Of a decoded image where none could be looked at: 1024 x 1024 pixels in three channels of 8 bits."""


@attrs.frozen
class HostMemory:
    """What a run takes of it: all of its processes on one machine, and their workers."""

    by_category: Mapping[str, int]
    ram_bytes: int
    """That the machine has."""
    is_this_machine: bool
    """Else `ram_bytes` was stated."""
    image_bytes: int | None
    """Of a decoded image of the data set, on average; None: ASSUMED_IMAGE_BYTES."""

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.by_category.values())


def pinned_bytes(size: int) -> int:
    """Of a tensor in page-locked memory, which torch rounds up to a power of two (ATen/core/CachingHostAllocator.h)."""
    return 1 << (size - 1).bit_length() if size > 0 else 0


def host_categories(
    config: Config,
    backend: Backend,
    copy_bytes: int,
    moved: Mapping[str, int],
    image_bytes: int | None,
    sharing: Sharing = ALONE,
    *,
    built_bytes: int = 0,
    device_bytes: int = 0,
) -> dict[str, int]:
    """Bytes by what they hold.

    Args:
        copy_bytes: of a copy of the state.
        moved: what waits here instead of on the device, by what it is there.
        image_bytes: of a decoded image, on average.
        sharing: among the processes of the run. Those of a machine have shards of the state to copy, or one of them
            copies all of it.
        built_bytes: of the networks of a process when they are built.
        device_bytes: what each process takes later where its device has the same memory.
    """
    data, processes = config.data, sharing.per_node
    assert data.micro_batch is not None
    ahead = data.workers * data.prefetch * data.micro_batch
    decoded = data.effective_batch // sharing.processes + ahead
    copied = copy_bytes * processes // sharing.shards if sharing.strategy == "fsdp" else copy_bytes
    found = {
        PROCESS: processes * PROCESS_BYTES[backend],
        WORKERS: processes * data.workers * WORKER_BYTES,
        IMAGES: processes * decoded * (image_bytes or ASSUMED_IMAGE_BYTES),
        COPY: copied if config.run.background_checkpoints else 0,
    }
    found |= {f"{name}, moved from the device": processes * size for name, size in moved.items() if size > 0}
    later = sum(found.values()) - found[PROCESS] + processes * device_bytes
    return found | ({NETWORKS: processes * built_bytes - later} if processes * built_bytes > later else {})


def of_first_process(by_category: Mapping[str, int], sharing: Sharing) -> int:
    """Bytes that the first process of a machine has of that, its workers not counted; where every process has whole
    networks it is the one that copies them."""
    parts = dict.fromkeys(by_category, sharing.per_node)
    if sharing.strategy == "ddp":
        parts[COPY] = 1
    return sum(size // parts[name] for name, size in by_category.items() if name != WORKERS)
