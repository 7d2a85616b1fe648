"""What a control group (cgroups(7)) leaves of the machine: a container's limits, or those of a batch system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import attrs

from bigrun.devices.text import text_of

__all__ = ["MemoryLimit", "cpu_limit", "memory_limit", "usable_cores"]

NO_LIMIT_BYTES = 1 << 60
"""Version 1 says a number near 2**63 when there is none."""


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Processors' worth of time, the least of this group and those around it; None without a limit."""
    found = []
    for group in groups(root, "cpu"):
        quota, period = [*text_of(group / "cpu.max").split(), "", ""][:2]  # version 2
        if not quota:
            quota, period = (text_of(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit() and int(period):  # "max" and -1 are none
            found.append(int(quota) / int(period))
    return min(found, default=None)


def usable_cores(root: Path = Path("/")) -> int:
    """Processors that this process can keep busy: those on which it may run, and no more than its group has time for,
    rounded down; one at least."""
    limit, allowed = cpu_limit(root), len(os.sched_getaffinity(0))
    return allowed if limit is None else max(1, min(allowed, int(limit)))


@attrs.frozen
class MemoryLimit:
    """Of the group that has the least."""

    bytes: int
    used_bytes: int
    """By all of the group, without the pages of files that the kernel gives back when it needs them."""


def memory_limit(root: Path = Path("/")) -> MemoryLimit | None:
    """The least of this group and those around it; None without a limit."""
    found = [
        MemoryLimit(int(text), used_bytes(group, used))
        for group in groups(root, "memory")
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
        if (text := text_of(group / limit).strip()).isdigit() and int(text) < NO_LIMIT_BYTES
    ]
    return min(found, key=lambda limit: limit.bytes, default=None)


def used_bytes(group: Path, name: str) -> int:
    used = text_of(group / name).strip()
    lines = text_of(group / "memory.stat").splitlines()
    cache = [line.split()[1] for line in lines if line.startswith(("inactive_file ", "total_inactive_file "))]
    return max(int(used or 0) - int(cache[-1] if cache else 0), 0)


def groups(root: Path, controller: str) -> Iterator[Path]:
    """This process's group and those around it, in every hierarchy that has the controller.

    In a container the paths of /proc/self/cgroup may be those of the host: what is mounted is then the top.
    """
    mounted = root / "sys/fs/cgroup"
    for line in text_of(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            tops = [mounted, mounted / "unified"]
        elif controller in controllers.split(","):
            tops = [mounted / controllers, mounted / controller]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for top in tops:
            yield from (top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))
