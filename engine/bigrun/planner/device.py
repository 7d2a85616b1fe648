"""The device that is planned for, as far as it is known without having it. Torch-free."""

from __future__ import annotations

import attrs

from bigrun.devices import DeviceFacts, HostFacts, TorchBuild, torch_build
from bigrun.devices.facts import Backend
from bigrun.planner.gpus import Gpu

__all__ = ["ARCHS", "UNIFIED", "backend_of", "imagined", "with_ram"]

# By the names of `bigrun.planner.gpus.GPUS`: CUDA's table of compute capabilities, ROCm's of supported GPUs.
ARCHS = {
    "RTX 3090": "sm_86",
    "RTX 4090": "sm_89",
    "RTX 5090": "sm_120",
    "A100": "sm_80",
    "A100-SXM4-40GB": "sm_80",
    "A100-PCIE-40GB": "sm_80",
    "A100-SXM4-80GB": "sm_80",
    "A100 80GB": "sm_80",
    "H100": "sm_90",
    "H100 PCIe": "sm_90",
    "H100 NVL": "sm_90",
    "H200": "sm_90",
    "H200 NVL": "sm_90",
    "MI300X": "gfx942",
    "8060S": "gfx1151",
}
UNIFIED = frozenset({"gfx1150", "gfx1151", "sm_121"})
"""Chips whose GPU has no memory of its own: Strix Point and Halo, NVIDIA's GB10."""


def backend_of(gpu: Gpu | None, wish: str, build: TorchBuild | None = None) -> Backend:
    """What computes on it: the GPU's maker says so, else `hardware.device`, else the torch that is installed.

    Args:
        wish: `hardware.device`.
    """
    if wish == "cpu":
        return "cpu"
    if gpu is not None and gpu.name in ARCHS:
        return "rocm" if ARCHS[gpu.name].startswith("gfx") else "cuda"
    if wish == "auto":
        wish = (build or torch_build()).backend
    return "rocm" if wish == "rocm" else "cuda"


def imagined(
    gpu: Gpu | None, name: str | None, backend: Backend, memory_bytes: int | None, host: HostFacts
) -> DeviceFacts:
    """Facts of a GPU that is not here, in this machine or another one; 0 bytes where its memory is not known.

    Args:
        name: as it was asked for, which may be no listed GPU's.
    """
    arch = ARCHS.get(gpu.name, "") if gpu is not None else ""
    version = torch_build().version
    build = TorchBuild(version, hip="n/a") if backend == "rocm" else TorchBuild(version, cuda="n/a")
    return DeviceFacts(
        backend=backend,
        name=name or "a GPU",
        arch=arch,
        torch=build,
        host=host,
        index=0,
        total_bytes=memory_bytes or 0,
        free_bytes=memory_bytes or 0,
        is_unified=arch in UNIFIED,
    )


def with_ram(host: HostFacts, ram_bytes: int | None) -> HostFacts:
    """A machine with other memory."""
    return host if ram_bytes is None else attrs.evolve(host, ram_total_bytes=ram_bytes, ram_free_bytes=ram_bytes)
