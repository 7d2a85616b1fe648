"""The machine, from what Linux says of it."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from bigrun.devices.facts import CpuFacts, HostFacts
from bigrun.devices.limits import memory_limit, usable_cores
from bigrun.devices.text import text_of

__all__ = ["FEATURES", "available_bytes", "memory_bytes", "read_host"]

FEATURES = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "bf16", "sve", "asimd")
"""Of processors, that decide how fast they multiply matrices."""


def read_host(directory: Path | None = None, root: Path = Path("/")) -> HostFacts:
    """
    Args:
        directory: whose disk counts; it need not be there.
        root: where `proc` and `sys` are.
    """
    total, free = memory_bytes(root)
    return HostFacts(
        system=platform.platform(),
        kernel=platform.release(),
        cpu=read_cpu(root),
        ram_total_bytes=total,
        ram_free_bytes=free,
        disk_free_bytes=None if directory is None else disk_bytes(directory),
    )


def read_cpu(root: Path = Path("/")) -> CpuFacts:
    lines = text_of(root / "proc/cpuinfo").splitlines()
    name = next((value(line) for line in lines if line.startswith("model name")), None)
    flags = next((value(line).split() for line in lines if line.startswith(("flags", "Features"))), [])
    return CpuFacts(
        name=name,
        architecture=platform.machine(),
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(root),
        features=tuple(feature for feature in FEATURES if feature in flags),
    )


def memory_bytes(root: Path = Path("/")) -> tuple[int, int]:
    """Total and free; within the limit of a container or a batch system, if there is one."""
    total, free = (meminfo_bytes(name, root) for name in ("MemTotal", "MemAvailable"))
    limit = memory_limit(root)
    if limit is not None and limit.bytes < total:
        total, free = limit.bytes, min(free, max(limit.bytes - limit.used_bytes, 0))
    return total, free


def available_bytes(root: Path = Path("/")) -> int:
    """Of the whole machine, without swapping: what is free, and what the kernel gives back when it is asked for; 0
    where it does not say."""
    return meminfo_bytes("MemAvailable", root)


def meminfo_bytes(name: str, root: Path) -> int:
    lines = text_of(root / "proc/meminfo").splitlines()
    sizes = (value(line) for line in lines if line.startswith(f"{name}:"))
    return int(next(sizes, "0 kB").split()[0]) * 1024


def disk_bytes(directory: Path) -> int | None:
    """Free on the disk where a directory is, or would be made."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None


def value(line: str) -> str:
    return line.partition(":")[2].strip()
