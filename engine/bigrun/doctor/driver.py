"""The kernel's driver, and whether it is new enough for the CUDA that torch was built with."""

from __future__ import annotations

from collections.abc import Iterator

from bigrun.devices import TorchBuild, torch_build
from bigrun.devices.read import read_driver
from bigrun.doctor.row import Row, judged
from bigrun.doctor.subject import Subject

__all__ = ["driver_rows", "judge_driver"]

# CUDA Toolkit release notes, table 2, "Minimum Required Driver Version for CUDA Minor Version Compatibility", Linux:
# https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/
OLDEST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 0)}


def driver_rows(subject: Subject) -> Iterator[Row]:
    build = torch_build()
    if build.backend != "cpu":
        yield judge_driver(build, read_driver(is_rocm=build.backend == "rocm", root=subject.root))


def judge_driver(build: TorchBuild, version: str | None) -> Row:
    """By the version of CUDA alone: AMD's driver is the kernel's own, and older and newer ROCm work with it."""
    name = "driver"
    if build.cuda is None:
        return Row(name, "info", version or "amdgpu of the kernel")
    if version is None:
        return Row(name, "info", "none of NVIDIA is loaded")
    major = int(build.cuda.split(".")[0])
    oldest = OLDEST_DRIVER.get(major)
    if oldest is None:
        return Row(name, "info", f"{version} for CUDA {build.cuda}")
    needed = ".".join(map(str, oldest))
    good = tuple(map(int, version.split(".")))[:2] >= oldest
    remedy = f"install driver {needed} or newer and restart the machine, or a torch for an older CUDA (.../whl/cu126)"
    return judged(name, good, version, f"{needed} or newer for CUDA {build.cuda}", remedy, otherwise="fail")
