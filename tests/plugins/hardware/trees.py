"""The files of the driver amdgpu, in a folder of a test: a Strix Halo, and a card of its own.

Sizes of the Strix Halo are those of a Framework Desktop with 128 GB (96 GiB set aside for the GPU), its heat and power
those of runs that users have reported: 87 °C at 120 W.
"""

from __future__ import annotations

import struct
from pathlib import Path

from bigrun_telemetry.gpu import Gpu

__all__ = ["DISCRETE", "STRIX_HALO", "counters", "discrete_tree", "reasons_now", "strix_halo_tree"]

GIB = 2**30
STRIX_HALO = Gpu("amd", "AMD Radeon Graphics", pci_address="0000:c2:00.0", is_integrated=True)
DISCRETE = Gpu("amd", "Radeon RX 7900 XTX", pci_address="0000:03:00.0")


def card(drm: Path, number: int, address: str, vendor: str = "0x1002") -> Path:
    """The folder of a card, where /sys has it: on its bus, with a link from the list of cards."""
    device = drm.parent / "devices" / address
    (device / "hwmon" / "hwmon3").mkdir(parents=True)
    (drm / f"card{number}").mkdir(parents=True)
    (drm / f"card{number}-DP-1").mkdir()  # a connector, not a card
    (drm / f"card{number}" / "device").symlink_to(device)
    write(device, vendor=vendor)
    return device


def write(folder: Path, **values: object) -> None:
    for name, value in values.items():
        (folder / name).write_text(f"{value}\n")


def strix_halo_tree(drm: Path) -> Path:
    device = card(drm, 1, "0000:c2:00.0")
    write(
        device,
        device="0x1586",
        gpu_busy_percent=97,
        mem_info_vram_total=96 * GIB,
        mem_info_vram_used=60 * GIB,
        mem_info_gtt_total=14 * GIB,
        mem_info_gtt_used=2 * GIB,
        pp_dpm_sclk="0: 600Mhz\n1: 1100Mhz\n2: 2900Mhz *",
    )
    sensors = device / "hwmon" / "hwmon3"
    write(sensors, name="amdgpu", temp1_input=87_000, temp1_label="edge", freq1_input=2_712_000_000, freq1_label="sclk")
    write(sensors, power1_input=120_019_000, power1_label="PPT")
    (device / "gpu_metrics").write_bytes(counters())
    return device


def discrete_tree(drm: Path) -> Path:
    device = card(drm, 0, "0000:03:00.0")
    write(device, gpu_busy_percent=100, mem_busy_percent=63, mem_info_vram_total=24 * GIB, mem_info_vram_used=20 * GIB)
    write(device, mem_info_gtt_total=62 * GIB, mem_info_gtt_used=GIB, pp_dpm_sclk="0: 500Mhz\n1: 2455Mhz *\n2: 2526Mhz")
    sensors = device / "hwmon" / "hwmon3"
    for number, label, celsius in ((1, "edge", 66), (2, "junction", 92), (3, "mem", 84)):
        write(sensors, **{f"temp{number}_label": label, f"temp{number}_input": celsius * 1000})
    write(sensors, temp1_crit=100_000, power1_average=339_000_000, power1_cap=339_000_000, freq2_input=1_249_000_000)
    write(sensors, fan1_input=2100, pwm1=153, pwm1_max=255)
    (device / "gpu_metrics").write_bytes(reasons_now(0))
    return device


def counters(
    prochot: int = 0, power: tuple[int, int, int] = (0, 0, 0), heat: tuple[int, int, int] = (0, 0, 0)
) -> bytes:
    """`gpu_metrics` v3.0: 264 bytes, u32 counters from byte 228 on."""
    return struct.pack("<HBB224x7I8x", 264, 3, 0, prochot, *power, *heat)


def reasons_now(bits: int) -> bytes:
    """`gpu_metrics` v1.3: 120 bytes, the last 8 are the reasons."""
    return struct.pack("<HBB108xQ", 120, 1, 3, bits)
