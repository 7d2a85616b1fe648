"""GPUs that the kernel sees, whether or not torch does."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from bigrun.devices import TorchBuild, torch_build
from bigrun.devices.choose import INSTALL
from bigrun.devices.text import text_of
from bigrun.doctor.row import Row
from bigrun.doctor.subject import Subject

__all__ = ["Present", "gpu_rows", "judge_build", "present_gpus"]

VENDORS = {"0x10de": "cuda", "0x1002": "rocm"}
"""PCI numbers of NVIDIA and AMD."""
MAKERS = {"cuda": "NVIDIA", "rocm": "AMD"}
CLASSES = ("0x03", "0x12")
"""PCI classes: displays, and accelerators without one."""


@attrs.frozen
class Present:
    """GPUs of one maker."""

    backend: str
    """Of torch that it needs: `cuda` or `rocm`."""
    names: tuple[str, ...]
    """As far as the kernel knows them: model, architecture or number."""
    has_driver: bool
    """Of the maker: one that computes."""

    def __str__(self) -> str:
        return f"{MAKERS[self.backend]} ({', '.join(self.names)})"


def present_gpus(root: Path = Path("/")) -> list[Present]:
    """By what drivers say, and where those are silent by what is on the bus."""
    nvidia = [
        match[1]
        for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
        if (match := re.search(r"^Model:\s*(.+?)\s*$", text_of(path), re.MULTILINE))
    ]
    nodes = sorted((root / "sys/class/kfd/kfd/topology/nodes").glob("*/properties"))
    amd = [name for path in nodes if (name := arch_of(text_of(path)))]
    on_bus: dict[str, list[str]] = {"cuda": [], "rocm": []}
    buses = (*(root / "sys/bus/pci/devices").glob("*"), *(root / "sys/class/drm").glob("card*/device"))
    for path in sorted(set(map(Path.resolve, buses))):
        backend = VENDORS.get(text_of(path / "vendor").strip())
        if backend and text_of(path / "class").strip().startswith(CLASSES):
            on_bus[backend].append(f"PCI device {text_of(path / 'device').strip()}")
    told = {"cuda": nvidia, "rocm": amd}
    return [
        Present(backend, tuple(told[backend] or on_bus[backend]), bool(told[backend]))
        for backend in told
        if told[backend] or on_bus[backend]
    ]


def arch_of(properties: str) -> str | None:
    """`gfx1151` from a node's `gfx_target_version 110501`; None for a processor, whose is 0."""
    found = re.search(r"^gfx_target_version (\d+)$", properties, re.MULTILINE)
    number = int(found[1]) if found else 0
    return f"gfx{number // 10000}{number // 100 % 100:x}{number % 100:x}" if number else None


def gpu_rows(subject: Subject) -> Iterator[Row]:
    yield judge_build(present_gpus(subject.root), torch_build(), subject.wish)
    yield from permission_rows(subject.root)
    hidden = [f"{name}={os.environ[name]}" for name in HIDING if name in os.environ]
    if hidden:
        yield Row("visible GPUs", "info", f"limited by {', '.join(hidden)}")


HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")


def judge_build(present: list[Present], build: TorchBuild, wish: str = "auto") -> Row:
    """Whether this torch can use one of the GPUs that are there."""
    name, expected = "GPU", "a torch that is built for it"
    found = "; ".join(map(str, present)) or "none that the kernel sees"
    if not present or wish == "cpu":
        return Row(name, "info", found)
    usable = [gpu for gpu in present if gpu.backend == build.backend]
    if not usable:
        gpu = present[0]
        # An AMD processor's own graphics counts as a GPU of AMD: one of NVIDIA, named first, is what computes.
        remedy = f"to train on it: {INSTALL[gpu.backend]}"
        return Row(name, "warn", f"{found}; torch is built for {build}", expected, remedy)
    if not usable[0].has_driver:
        remedy = f"install {MAKERS[usable[0].backend]}'s driver, or load its module (`lsmod`); in a container pass the "
        remedy += "device: docker --gpus all, or --device /dev/kfd --device /dev/dri"
        return Row(name, "warn", f"{found}, without a driver that computes", "a driver", remedy)
    return Row(name, "ok", found, expected)


def permission_rows(root: Path) -> Iterator[Row]:
    """/dev/kfd is for the groups `render` and `video`: without them torch sees no GPU, and does not say why."""
    path = root / "dev/kfd"
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        remedy = "sudo usermod -aG render,video $USER, and log in again; in a container: --group-add render"
        yield Row("/dev/kfd", "fail", "may not be opened by this user", "read and write", remedy)
