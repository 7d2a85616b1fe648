"""What the kernel's driver says of an AMD GPU: its pools of memory, their limits, its firmware."""

from __future__ import annotations

from pathlib import Path

import attrs

__all__ = ["DriverFacts", "read_driver"]

AMD = "0x1002"
PAGE_BYTES = 4096
"""Of TTM's limit, on x86."""


@attrs.frozen
class DriverFacts:
    """Of one GPU; None where the driver does not say."""

    vram_total_bytes: int | None = None
    """Set aside for the GPU by the BIOS; of a graphics card its own memory."""
    vram_used_bytes: int | None = None
    gtt_total_bytes: int | None = None
    """Of the host's memory that the GPU may map."""
    gtt_used_bytes: int | None = None
    ttm_limit_bytes: int | None = None
    """Of the host's memory that all GPUs may map together: by default half of it."""
    has_cwsr: bool | None = None
    """Whether the driver saves and restores running waves, to switch between processes."""
    mes_firmware: int | None = None
    """Version of the firmware that schedules the GPU's queues."""

    @property
    def gtt_limit_bytes(self) -> int | None:
        """Of the host's memory that this GPU may map at most."""
        if self.gtt_total_bytes is None:
            return None
        return min(self.gtt_total_bytes, self.ttm_limit_bytes or self.gtt_total_bytes)


def read_driver(address: str | None = None, root: Path = Path("/")) -> DriverFacts:
    """Read what Linux says of the GPU at a PCI address.

    Args:
        address: `0000:c2:00.0`; None, or one that is not there: the only AMD GPU of the machine, if it has but one.
        root: where `sys` is.
    """
    device = find_device(address, root)
    pages = number_in(root / "sys/module/ttm/parameters/pages_limit")
    cwsr = number_in(root / "sys/module/amdgpu/parameters/cwsr_enable")
    known = DriverFacts(
        ttm_limit_bytes=None if pages is None else pages * PAGE_BYTES,
        has_cwsr=None if cwsr is None else cwsr != 0,
    )
    if device is None:
        return known
    return attrs.evolve(
        known,
        vram_total_bytes=number_in(device / "mem_info_vram_total"),
        vram_used_bytes=number_in(device / "mem_info_vram_used"),
        gtt_total_bytes=number_in(device / "mem_info_gtt_total"),
        gtt_used_bytes=number_in(device / "mem_info_gtt_used"),
        mes_firmware=number_in(device / "fw_version/mes_fw_version"),
    )


def find_device(address: str | None, root: Path) -> Path | None:
    """The folder of the GPU in sysfs."""
    cards = sorted((root / "sys/class/drm").glob("card*/device"))  # card0-HDMI-A-1 has a folder `device`, too
    found = {card.resolve() for card in cards if text_in(card / "vendor") == AMD}
    at_address = [device for device in found if device.name == address]
    if at_address:
        return at_address[0]
    return found.pop() if len(found) == 1 else None


def text_in(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def number_in(path: Path) -> int | None:
    """Of a file of one number, decimal or 0x hexadecimal, that may not be there."""
    try:
        return int(text_in(path) or "", 0)
    except ValueError:
        return None
