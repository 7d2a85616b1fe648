"""The binary file `gpu_metrics` of the driver amdgpu: what slows the GPU down.

Layouts are those of Linux (drivers/gpu/drm/amd/include/kgd_pp_interface.h) with the compiler's natural alignment. The
file begins with its size (u16) and two bytes of revision; of a layout that is not known here nothing is read.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from bigrun_telemetry.reasons import AMD_BITS, named

__all__ = ["GpuMetrics"]

DISCRETE = (120, 1, 3)
"""`gpu_metrics_v1_3`, of the cards since RDNA 2: the last 8 bytes are the reasons of this moment, as bits."""
INTEGRATED = (264, 3, 0)
"""`gpu_metrics_v3_0`, of Strix Point and Strix Halo: counters of the time that a reason has slowed the GPU down."""
BITS_OFFSET, COUNTERS_OFFSET = 112, 228
COUNTERS = ("hw-thermal", "power-cap", "power-cap", "power-cap", "sw-thermal", "sw-thermal", "sw-thermal")
"""PROCHOT; the power limits SPL, FPPT, SPPT; the temperatures of core, GFX, SoC: u32 each."""
NOT_MEASURED_32, NOT_MEASURED_64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


class GpuMetrics:
    """Reads one version of the file after the other: counters tell something only when they have grown."""

    def __init__(self) -> None:
        self._before: Mapping[str, int] | None = None

    def throttle(self, data: bytes) -> tuple[str, ...] | None:
        """Why the GPU is slowed down, or was since the last call; None when that is not known."""
        revision = struct.unpack_from("<HBB", data) if len(data) >= 4 else None
        if revision is None or len(data) < revision[0]:
            return None
        if revision == DISCRETE:
            (bits,) = struct.unpack_from("<Q", data, BITS_OFFSET)
            return None if bits == NOT_MEASURED_64 else named(bits, AMD_BITS)
        if revision == INTEGRATED:
            before, self._before = self._before, residencies(data)
            return None if before is None else tuple(name for name, n in self._before.items() if n > before[name])
        return None


def residencies(data: bytes) -> dict[str, int]:
    """Reason -> sum of its counters."""
    found = dict.fromkeys(COUNTERS, 0)
    for name, count in zip(COUNTERS, struct.unpack_from(f"<{len(COUNTERS)}I", data, COUNTERS_OFFSET), strict=True):
        found[name] += 0 if count == NOT_MEASURED_32 else count
    return found
