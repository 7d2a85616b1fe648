"""What a control group (cgroups(7)) leaves of the machine: a container's limits, or those of a batch system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bigrun.devices.host import text_of

__all__ = ["cpu_limit", "memory_limit_bytes"]

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


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """The least of this group and those around it; None without a limit."""
    texts = [
        text_of(group / name).strip()
        for group in groups(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
    ]
    return min((int(text) for text in texts if text.isdigit() and int(text) < NO_LIMIT_BYTES), default=None)


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
