"""Why a GPU holds its clock down, by the same names for all vendors."""

from __future__ import annotations

__all__ = ["AMD_BITS", "HEAT", "NVIDIA_BITS", "POWER", "named"]

NVIDIA_BITS = {
    0x1: "idle",
    0x2: "application-clocks",
    0x4: "power-cap",
    0x8: "hw-slowdown",
    0x10: "sync-boost",
    0x20: "sw-thermal",
    0x40: "hw-thermal",
    0x80: "power-brake",
    0x100: "display-clocks",
}
"""`nvmlClocksEventReasons` (nvml.h, NVML API reference, https://docs.nvidia.com/deploy/nvml-api/)."""

AMD_BITS = {
    **dict.fromkeys((1 << bit for bit in range(8)), "power-cap"),
    **dict.fromkeys((1 << bit for bit in range(16, 24)), "current-cap"),
    **dict.fromkeys((1 << bit for bit in range(32, 46)), "sw-thermal"),
    **dict.fromkeys((1 << 46, 1 << 47), "hw-thermal"),
}
"""`SMU_THROTTLER_*_BIT` of Linux (drivers/gpu/drm/amd/pm/swsmu/inc/amdgpu_smu.h): 0 to 7 power, 16 to 23 current, 32 to
45 temperatures, 46 and 47 PROCHOT, the signal by which hardware asks for less at once."""

HEAT = frozenset({"hw-slowdown", "sw-thermal", "hw-thermal"})
"""NVIDIA's 0x8, 0x20 and 0x40. The first also stands for a power brake, which then is set, too."""

POWER = "power-cap"


def named(bits: int, names: dict[int, str]) -> tuple[str, ...]:
    """The names of the bits that are set, each once, in the order of the bits; unknown bits have none."""
    return tuple(dict.fromkeys(name for bit, name in names.items() if bits & bit))
