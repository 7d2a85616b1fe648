"""Facts of devices that are not here, for tests of what is decided on them.

Recorded: the three forms in which gfx1151 (Strix Halo) was seen, by name and memory: ROCm/legacy-rocm-build issue 5807
(torch 2.11, ROCm 7.13), a Framework Desktop with 96 GiB set aside in its BIOS (torch 2.9.1, ROCm 7.1.1), and one that
AMD SMI calls by its smaller sister's name. Of the others name, architecture, memory and units are those of the makers'
data sheets, as torch reports them; none was read by bigrun itself.
"""

from __future__ import annotations

import attrs

from bigrun.devices import CpuFacts, DeviceFacts, HostFacts, TorchBuild

__all__ = ["DEVICES", "device"]

GIB = 2**30
CUDA = TorchBuild("2.13.0+cu130", cuda="13.0")
ROCM = TorchBuild("2.13.0+rocm7.1", hip="7.1.52802")
NVIDIA_ARCHS = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
AMD_ARCHS = ("gfx90a", "gfx942", "gfx1100", "gfx1101", "gfx1150", "gfx1151", "gfx1200", "gfx1201", "gfx950")


def host(cores: int, ram_gib: float, kernel: str = "6.8.0-90-generic", *features: str) -> HostFacts:
    total = round(ram_gib * GIB)
    return HostFacts(
        system=f"Linux-{kernel}-x86_64-with-glibc2.39",
        kernel=kernel,
        cpu=CpuFacts(None, "x86_64", cores, cores, features or ("avx512_bf16", "avx512f", "avx2")),
        ram_total_bytes=total,
        ram_free_bytes=round(0.9 * total),
        disk_free_bytes=500 * GIB,
    )


def nvidia(name: str, arch: str, gib: float, multiprocessors: int, cores: int = 16, ram_gib: float = 64) -> DeviceFacts:
    total = round(gib * GIB)
    return DeviceFacts(
        backend="cuda",
        name=name,
        arch=arch,
        torch=CUDA,
        host=host(cores, ram_gib),
        index=0,
        total_bytes=total,
        free_bytes=round(0.97 * total),
        multiprocessors=multiprocessors,
        driver="580.95.05",
        built_for=NVIDIA_ARCHS,
    )


def amd(
    name: str, arch: str, gib: float, multiprocessors: int, *, unified: bool = False, machine: HostFacts | None = None
) -> DeviceFacts:
    total = round(gib * GIB)
    return DeviceFacts(
        backend="rocm",
        name=name,
        arch=arch,
        torch=ROCM,
        host=machine or host(32, 128),
        index=0,
        total_bytes=total,
        free_bytes=round(0.97 * total),
        is_unified=unified,
        multiprocessors=multiprocessors,
        driver=None,
        built_for=AMD_ARCHS,
    )


def strix_halo(name: str, gib: float, ram_gib: float, kernel: str, build: TorchBuild) -> DeviceFacts:
    facts = amd(name, "gfx1151", gib, 20, unified=True, machine=host(32, ram_gib, kernel))  # 20 pairs of units
    return attrs.evolve(facts, torch=build)


DEVICES = {
    "gfx1151-a": strix_halo(
        "Radeon 8060S Graphics", 62.54, 125, "6.17.0-8-generic", TorchBuild("2.11.0+rocm7.13", hip="7.13.0")
    ),
    "gfx1151-b": strix_halo(
        "AMD Radeon Graphics", 110, 30.6, "6.17.0-8-generic", TorchBuild("2.9.1+rocm7.1.1", hip="7.1.52802")
    ),
    "gfx1151-c": strix_halo("Radeon 8050S Graphics", 110, 30.6, "6.18.4", ROCM),
    "gfx1100": amd("AMD Radeon RX 7900 XTX", "gfx1100", 23.98, 48),
    "gfx942": amd("AMD Instinct MI300X", "gfx942", 191.98, 304),
    "rtx3090": nvidia("NVIDIA GeForce RTX 3090", "sm_86", 23.69, 82),
    "rtx4090": nvidia("NVIDIA GeForce RTX 4090", "sm_89", 23.53, 128, cores=32),
    "rtx5090": nvidia("NVIDIA GeForce RTX 5090", "sm_120", 31.36, 170, cores=32),
    "a100": nvidia("NVIDIA A100-SXM4-80GB", "sm_80", 79.25, 108, cores=128, ram_gib=1024),
    "h100": nvidia("NVIDIA H100 80GB HBM3", "sm_90", 79.11, 132, cores=128, ram_gib=1024),
    "h200": nvidia("NVIDIA H200", "sm_90", 139.81, 132, cores=128, ram_gib=1024),
    "cpu": DeviceFacts(
        backend="cpu",
        name="AMD EPYC",
        arch="x86_64",
        torch=TorchBuild("2.13.0+cpu"),
        host=host(2, 24),
        total_bytes=24 * GIB,
        free_bytes=22 * GIB,
        is_unified=True,
        multiprocessors=2,
    ),
}


def device(name: str, torch: str | None = None) -> DeviceFacts:
    """One of DEVICES, with another release of torch if asked: `device("h200", "2.10.0")`."""
    facts = DEVICES[name]
    return facts if torch is None else attrs.evolve(facts, torch=attrs.evolve(facts.torch, version=torch))
