"""How fast memory is copied: on the device, and between host and device."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bigrun.devices.pci import link_speed, pci_address
from bigrun.doctor.row import Row
from bigrun.doctor.speed import BUSY, expected_speed
from bigrun.doctor.subject import Subject
from bigrun.doctor.timing import best_seconds
from bigrun.planner.gpus import gpu_of

__all__ = ["MEMORY_GBPS", "bandwidth_rows"]

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
    "H200 NVL": 4800.0,
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
    gpu = gpu_of(facts)
    peak = MEMORY_GBPS.get(gpu.name) if gpu else None
    speed = 2 * size / best_seconds(lambda: target.copy_(source), device) / 1e9  # read and written
    yield expected_speed("memory speed", speed, peak, "GB/s", BUSY)
    if facts.is_gpu:
        address = pci_address(torch.cuda.get_device_properties(device))
        peak = None if address is None or facts.is_unified else link_speed(address, subject.root)
        yield from link_rows(device, peak)


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
