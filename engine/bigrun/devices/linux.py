"""Versions of Linux that are known to be bad for a GPU."""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs

__all__ = ["KernelProblem", "kernel_problems", "kernel_version"]

Version = tuple[int, int, int]


@attrs.frozen
class KernelProblem:
    """A GPU and versions of Linux, what happens with them and what to do, and who says so."""

    arch: str
    applies: Callable[[Version, str], bool]
    message: str
    source: str


def kernel_version(release: str) -> Version:
    """(6, 17, 0) of `6.17.0-8-generic`."""
    numbers = [int(number) for number in re.findall(r"\d+", release.split("-")[0])[:3]]
    major, minor, patch = (*numbers, 0, 0, 0)[:3]
    return major, minor, patch


def is_unstable(version: Version, release: str) -> bool:
    """Ubuntu's 6.17 is the one for which AMD makes its packages."""
    return version < (6, 18, 4) and not (version[:2] == (6, 17) and release.endswith(("-generic", "-oem")))


PROBLEMS = (
    KernelProblem(
        "gfx1151",
        is_unstable,
        "before 6.18.4 it is unstable with this GPU: take 6.18.4 or later, or Ubuntu's 6.17",
        "github.com/kyuz0/amd-strix-halo-toolboxes",
    ),
    KernelProblem(
        "gfx1151",
        lambda version, release: version == (7, 0, 0),
        "in 7.0.0 the GPU reads mapped files 300 times slower: take another",
        "ROCm/legacy-rocm-build issue 6530",
    ),
)
"""Each is somebody's report, not a measurement of this project."""


def kernel_problems(arch: str, release: str) -> list[KernelProblem]:
    """
    Args:
        arch: `gfx1151`.
        release: as `uname -r` says it.
    """
    version = kernel_version(release)
    return [problem for problem in PROBLEMS if problem.arch == arch and problem.applies(version, release)]
