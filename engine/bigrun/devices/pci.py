"""Where a GPU sits, and what its slot carries."""

from __future__ import annotations

import re
from pathlib import Path

from bigrun.devices.text import text_of

__all__ = ["link_gbps", "link_speed", "pci_address"]


def pci_address(properties: object) -> str | None:
    """domain:bus:device.function, as sysfs writes it, of torch's device properties, which have it in most builds; the
    function is 0."""
    domain, bus, slot = (getattr(properties, f"pci_{part}_id", None) for part in ("domain", "bus", "device"))
    if domain is None or bus is None or slot is None:
        return None
    return f"{domain:04x}:{bus:02x}:{slot:02x}.0"


def link_speed(address: str, root: Path = Path("/")) -> float | None:
    """GB/s in one direction between the host and the device at an address: what the slowest of the device and the
    bridges above it can do, the slot among them. None where the kernel does not say it of the device."""
    device = (root / "sys/bus/pci/devices" / address).resolve()
    own, *bridges = (most_gbps(folder) for folder in (device, *device.parents))
    return None if own is None else min([own, *(gbps for gbps in bridges if gbps is not None)])


def most_gbps(device: Path) -> float | None:
    """Of a device's or bridge's folder. A card that idles lowers its speed, not its width."""
    return link_gbps(text_of(device / "max_link_speed"), text_of(device / "current_link_width"))


def link_gbps(speed: str, width: str) -> float | None:
    """From `16.0 GT/s PCIe` and `16`: 8 bits in 10 up to 5 GT/s, 128 in 130 above (PCI Express Base Specification)."""
    found = re.match(r"(\d+(?:\.\d+)?) GT/s", speed)
    if not found or not width.strip().isdigit() or not int(width):
        return None
    rate = float(found[1])
    return rate * int(width) / 8 * (8 / 10 if rate <= 5 else 128 / 130)
