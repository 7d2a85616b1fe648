"""How fast memory is copied: on the device, and between host and device."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch

from bigrun.devices.text import text_of
from bigrun.doctor.row import Row
from bigrun.doctor.speed import BUSY, expected_speed
from bigrun.doctor.subject import Subject
from bigrun.doctor.timing import best_seconds
from bigrun.planner.gpus import find_gpu

__all__ = ["MEMORY_GBPS", "bandwidth_rows", "link_gbps"]

# GB/s from the makers' data sheets, by the names of `bigrun.planner.gpus`. Without the size in its name that of an A100
# is 1555 or 2039, and the lower one is expected.
MEMORY_GBPS = {
    "RTX 3090": 936.0,
    "RTX 4090": 1008.0,
    "RTX 5090": 1792.0,
    "A100": 1555.0,
    "A100-SXM4-40GB": 1555.0,
    "A100-PCIE-40GB": 1555.0,
    "A100-SXM4-80GB": 2039.0,
    "A100 80GB": 1935.0,
    "H100": 3350.0,
    "H100 PCIe": 2000.0,
    "H100 NVL": 3900.0,
    "H200": 4800.0,
    "MI300X": 5300.0,
    "8060S": 256.0,
}
DEVICE_BYTES, HOST_BYTES = 1 << 30, 256 << 20
LINK = "look whether the card sits in a slot of full width, and whether the BIOS limits it (`lspci -vv`: LnkSta)"


def bandwidth_rows(subject: Subject) -> Iterator[Row]:
    device, facts = subject.device, subject.facts
    size = min(DEVICE_BYTES if facts.is_gpu else HOST_BYTES, max(facts.free_bytes // 8, 1 << 20))
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)  # of memory that is there: the first write to it is not measured
    gpu = find_gpu(facts.name) if facts.is_gpu else None
    peak = MEMORY_GBPS.get(gpu.name) if gpu else None
    speed = 2 * size / best_seconds(lambda: target.copy_(source), device) / 1e9  # read and written
    yield expected_speed("memory speed", speed, peak, "GB/s", BUSY)
    if facts.is_gpu:
        yield from link_rows(device, None if facts.is_unified else link_of(device, subject.root))


def link_rows(device: torch.device, peak: float | None) -> Iterator[Row]:
    here = torch.zeros(HOST_BYTES, dtype=torch.uint8, device=device)
    pinned = torch.zeros(HOST_BYTES, dtype=torch.uint8, pin_memory=True)
    pageable = torch.zeros(HOST_BYTES, dtype=torch.uint8)
    ways = (
        ("host to device", lambda: here.copy_(pinned, non_blocking=True), peak),
        ("host to device, pageable", lambda: here.copy_(pageable), None),
        ("device to host", lambda: pinned.copy_(here, non_blocking=True), peak),
    )
    for name, copy, expected in ways:
        speed = HOST_BYTES / best_seconds(copy, device) / 1e9
        yield expected_speed(name, speed, expected, "GB/s", LINK)


def link_of(device: torch.device, root: Path) -> float | None:
    """GB/s that a GPU's slot gives; None where the system does not say."""
    properties = torch.cuda.get_device_properties(device)
    numbers = [getattr(properties, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    domain, bus, slot = numbers
    if domain is None or bus is None or slot is None:
        return None
    path = root / f"sys/bus/pci/devices/{domain:04x}:{bus:02x}:{slot:02x}.0"
    # a card that idles lowers its speed, not its width
    return link_gbps(text_of(path / "max_link_speed"), text_of(path / "current_link_width"))


def link_gbps(speed: str, width: str) -> float | None:
    """From `16.0 GT/s PCIe` and `16`: 8 bits in 10 up to 5 GT/s, 128 in 130 above (PCI Express Base Specification)."""
    found = re.match(r"(\d+(?:\.\d+)?) GT/s", speed)
    if not found or not width.strip().isdigit() or not int(width):
        return None
    rate = float(found[1])
    return rate * int(width) / 8 * (8 / 10 if rate <= 5 else 128 / 130)
