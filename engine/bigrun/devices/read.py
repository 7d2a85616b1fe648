"""The facts of the device that torch has chosen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from bigrun.devices.facts import DeviceFacts
from bigrun.devices.host import read_host
from bigrun.devices.memory import read_memory
from bigrun.devices.text import text_of
from bigrun.devices.torch_build import TorchBuild

if TYPE_CHECKING:
    import torch

__all__ = ["read_facts"]


def read_facts(device: torch.device, directory: Path | None = None) -> DeviceFacts:
    """Read once, when the device is chosen; a GPU is initialised by it.

    Args:
        directory: of the run.
    """
    import torch

    build = TorchBuild(str(torch.__version__), torch.version.cuda, torch.version.hip)
    host = read_host(directory)
    if device.type != "cuda":
        return DeviceFacts(
            backend="cpu",
            name=host.cpu.name or "CPU",
            arch=host.cpu.architecture,
            torch=build,
            host=host,
            total_bytes=host.ram_total_bytes,
            free_bytes=host.ram_free_bytes,
            is_unified=True,
            multiprocessors=host.cpu.usable_cores,
        )
    properties = torch.cuda.get_device_properties(device)
    is_unified = bool(getattr(properties, "is_integrated", False))
    memory = read_memory(device, is_unified=is_unified)
    is_rocm = build.hip is not None
    return DeviceFacts(
        backend="rocm" if is_rocm else "cuda",
        name=properties.name,
        # On CUDA builds gcnArchName is the device's name.
        arch=properties.gcnArchName.partition(":")[0] if is_rocm else f"sm_{properties.major}{properties.minor}",
        torch=build,
        host=host,
        index=device.index,
        total_bytes=memory.total_bytes,
        free_bytes=memory.free_bytes,
        is_unified=is_unified,
        multiprocessors=properties.multi_processor_count,
        driver=read_driver(is_rocm=is_rocm),
        built_for=tuple(torch.cuda.get_arch_list()),
    )


def read_driver(*, is_rocm: bool, root: Path = Path("/")) -> str | None:
    """Version of the kernel's driver; None where it does not say. That of AMD may be the kernel's own."""
    if is_rocm:
        return text_of(root / "sys/module/amdgpu/version").strip() or None
    found = re.search(r"Kernel Module\b.*?\s(\d+(?:\.\d+)+)\s", text_of(root / "proc/driver/nvidia/version"))
    return found[1] if found else None
