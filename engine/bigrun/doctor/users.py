"""Who has a GPU open: what computes on it, and what only draws the screen."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import attrs

from bigrun.checkpoint.space import human_bytes
from bigrun.devices import DeviceFacts
from bigrun.devices.text import text_of
from bigrun.doctor.row import Row

__all__ = ["User", "gpu_users", "users_row"]

GPU_FILES = re.compile(r"/dev/(?:nvidia\d+|(kfd))$")
DRAWING = re.compile(
    r"X(?:org|wayland)?$|gnome-|kwin|plasma|mutter|cinnamon|xfwm|marco|sway|weston|[Hh]yprland|cosmic-|gdm|sddm|lightdm"
    r"|firefox|chrom|nv-hostengine|nvidia-persist|nvtop|dcgm"
)
"""Names of desktops, of what shows pictures on them, and of what only watches a GPU; the kernel keeps 15 letters."""
SMALL_FRACTION = 0.02
"""Of the GPU's memory: what computes with less than that is a program that waits, such as a notebook."""


@attrs.frozen
class User:
    """A process that has a GPU open."""

    name: str
    pid: int
    size_bytes: int | None = None
    """Of the GPU's memory; None where nobody says."""
    computes: bool = True

    def __str__(self) -> str:
        size = "" if self.size_bytes is None else f", {human_bytes(self.size_bytes)}"
        return f"{self.name} ({self.pid}{size})"


def gpu_users(root: Path = Path("/"), computing: Mapping[int, int | None] | None = None) -> list[User]:
    """All but this process and its parent; of other users' processes what the driver tells, and what root may see.

    Args:
        computing: of NVIDIA's driver, by number of the process; None where it does not answer.
    """
    numbers = {int(path.name) for path in (root / "proc").glob("[0-9]*")} | set(computing or {})
    found = []
    for pid in sorted(numbers - {os.getpid(), os.getppid()}):
        files = gpu_files(root / "proc" / str(pid))
        name = text_of(root / "proc" / str(pid) / "comm").strip() or "?"
        if "kfd" in files:  # which AMD's driver has for computing alone
            found.append(User(name, pid, kfd_bytes(root, pid)))
        elif computing is not None and pid in computing:
            found.append(User(name, pid, computing[pid]))
        elif files:
            found.append(User(name, pid, computes=computing is None and not DRAWING.match(name)))
    return found


def gpu_files(process: Path) -> set[str]:
    """`kfd` for AMD's, "" for NVIDIA's."""
    try:
        links = [GPU_FILES.search(str(link.readlink())) for link in (process / "fd").iterdir()]
    except OSError:  # it has ended, or is somebody else's
        return set()
    return {match[1] or "" for match in links if match}


def kfd_bytes(root: Path, pid: int) -> int | None:
    """What a process has on all AMD GPUs (`vram_<GPU>`)."""
    texts = [text_of(path).strip() for path in (root / f"sys/class/kfd/kfd/proc/{pid}").glob("vram_*")]
    sizes = [int(text) for text in texts if text.isdigit()]
    return sum(sizes) if sizes else None


def users_row(users: list[User], facts: DeviceFacts) -> Row:
    """A warning where something else computes on the GPU, or may; a desktop is a fact."""
    name, computing = "others on the GPUs", [user for user in users if user.computes]
    others = [user for user in users if not user.computes]
    parts = [f"computing: {', '.join(map(str, computing))}"] if computing else []
    parts += [f"drawing or watching: {', '.join(map(str, others))}"] if others else []
    found, expected = "; ".join(parts) or "none that this user may see", "nothing else that computes"
    sizes = [user.size_bytes for user in computing]
    known = [size for size in sizes if size is not None]
    if not computing:
        return Row(name, "info" if others else "ok", found, expected)
    if len(known) == len(sizes) and sum(known) < SMALL_FRACTION * facts.total_bytes:
        return Row(name, "info", f"{found}: too little to matter", expected)
    remedy = (
        "a run shares memory and time with what computes: end it if it is not meant to be there, or choose another GPU "
        "with CUDA_VISIBLE_DEVICES (HIP_VISIBLE_DEVICES)"
    )
    return Row(name, "warn", found, expected, remedy)
