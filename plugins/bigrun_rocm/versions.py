"""Which library of ROCm has kernels for which architecture, by version."""

from __future__ import annotations

import re
from typing import Literal

import attrs

__all__ = ["EXPERIMENTAL_ATTENTION", "HIPBLASLT", "Support", "hipblaslt_support", "numbers_of"]

Support = Literal["default", "supported", "unsupported"]


@attrs.frozen
class Since:
    """Versions of ROCm from which on torch takes hipBLASLt on an architecture."""

    supported: tuple[int, int]
    default: tuple[int, int] | None = None
    """By itself; None: when it is asked to."""


ANY = (0, 0)
"""Every ROCm for which torch 2.10 and later is built."""
HIPBLASLT = {
    "gfx90a": Since(ANY, ANY),
    "gfx942": Since(ANY, ANY),
    "gfx1100": Since((6, 3)),
    "gfx1101": Since((6, 3)),
    "gfx1103": Since((6, 3)),
    "gfx1150": Since((7, 0)),
    "gfx1151": Since((7, 0)),
    "gfx1200": Since((6, 4), (6, 4)),
    "gfx1201": Since((6, 4), (6, 4)),
    "gfx950": Since((7, 0), (7, 0)),
}
"""torch 2.10 to 2.13 (aten/src/ATen/Context.cpp). gfx1100, gfx1101 and gfx1151 became defaults in AMD's own builds of
2.8, 2.9 and from 2.11 on (ROCm/pytorch pull requests 2741, 3317), and in torch itself in the middle of 2026
(pytorch/pytorch 185375): so the plugin sets it, whatever the default."""

EXPERIMENTAL_ATTENTION = "gfx11"
"""Architectures that AOTriton before 0.12 calls experimental (pytorch/pytorch 184288); on them torch takes its kernels
only when it is told to. Where they are none any more the permission changes nothing."""


def numbers_of(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (6, 17, 0, 8) for 6.17.0-8-generic."""
    found = re.match(r"\d+(?:[.-]\d+)*", version)
    return tuple(int(part) for part in re.split(r"[.-]", found[0])) if found else ()


def hipblaslt_support(arch: str, hip: str | None) -> Support:
    """Whether torch takes hipBLASLt on an architecture: by itself, when asked to, or not at all.

    Args:
        hip: version of HIP, `7.1.52802`, whose first two numbers are those of ROCm.
    """
    since, version = HIPBLASLT.get(arch), numbers_of(hip or "")[:2]
    if since is None or version < since.supported:
        return "unsupported"
    return "default" if since.default is not None and version >= since.default else "supported"
