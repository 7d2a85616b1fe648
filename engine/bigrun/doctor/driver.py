"""Driver and kernel of the system, against what this torch and this GPU need."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from pathlib import Path

from bigrun.devices import TorchBuild, torch_build
from bigrun.devices.linux import kernel_problems
from bigrun.devices.read import read_driver
from bigrun.doctor.present import Present, present_gpus
from bigrun.doctor.row import Row, judged
from bigrun.doctor.subject import Subject

__all__ = ["driver_rows", "judge_driver", "judge_library", "library_versions", "linux_rows"]

# CUDA Toolkit release notes, table 2, "Minimum Required Driver Version for CUDA Minor Version Compatibility", Linux:
# https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/
OLDEST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 0)}
LIBRARY_FOLDERS = ("lib64", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "lib")


def driver_rows(subject: Subject) -> Iterator[Row]:
    """Of a GPU's driver where torch is built for one, and of Linux where it has a part in driving the GPU."""
    build = torch_build()
    if build.backend != "cpu":
        yield judge_driver(build, read_driver(is_rocm=build.backend == "rocm", root=subject.root))
    module, libraries = read_driver(is_rocm=False, root=subject.root), library_versions(subject.root)
    if module and libraries:
        yield judge_library(module, libraries)
    yield from linux_rows(present_gpus(subject.root), platform.release())


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


def library_versions(root: Path) -> list[str]:
    """Of the library that speaks to NVIDIA's module in the kernel (`libnvidia-ml.so.580.95.05`)."""
    files = [path.name for folder in LIBRARY_FOLDERS for path in (root / "usr" / folder).glob("libnvidia-ml.so.*.*")]
    return sorted({match[1] for name in files if (match := re.search(r"\.so\.(\d+(?:\.\d+)+)$", name))})


def judge_library(module: str, libraries: list[str]) -> Row:
    """An update replaces the library at once, the module when the machine starts: until then neither works."""
    found = f"module {module}, library {', '.join(libraries)}"
    remedy = "restart the machine, so that the kernel takes the module of the driver that is installed"
    return judged("driver library", module in libraries, found, "the same version", remedy, otherwise="fail")


def linux_rows(present: list[Present], release: str) -> Iterator[Row]:
    """AMD's driver is part of Linux, and some versions are bad for some GPUs; NVIDIA's is a module of its own."""
    for gpu in (gpu for gpu in present if gpu.backend == "rocm"):
        for arch in dict.fromkeys(gpu.names):
            problems = kernel_problems(arch, release)
            remedies = [f"{problem.message} ({problem.source})" for problem in problems]
            expected = "no version that is known to be bad for it"
            yield judged("Linux", not problems, f"{release} for {arch}", expected, "; ".join(remedies))
