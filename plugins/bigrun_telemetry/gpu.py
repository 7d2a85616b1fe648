"""Which GPU a run is on, in words that drivers understand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    import torch

__all__ = ["Gpu"]


@attrs.frozen
class Gpu:
    """The identity of one GPU. torch's number of a device is not the driver's: CUDA_VISIBLE_DEVICES renumbers."""

    vendor: Literal["nvidia", "amd"]
    name: str
    uuid: str | None = None
    """As torch writes it, without the driver's prefix."""
    pci_address: str | None = None
    """domain:bus:device.function, as sysfs writes it."""
    is_integrated: bool = False
    """It shares its memory with the host (APU)."""

    @classmethod
    def of(cls, device: torch.device) -> Gpu | None:
        """The GPU behind a torch device; None for a CPU. To be called by the run's own thread: the only question that
        telemetry asks of CUDA, and one that does not wait for the device."""
        import torch

        if device.type != "cuda":
            return None
        facts = torch.cuda.get_device_properties(device)
        uuid = getattr(facts, "uuid", None)
        return cls(
            vendor="amd" if torch.version.hip else "nvidia",
            name=facts.name,
            uuid=None if uuid is None else str(uuid),
            pci_address=pci_address(facts),
            is_integrated=bool(getattr(facts, "is_integrated", 0)),
        )


def pci_address(facts: object) -> str | None:
    """Of torch's device properties, which have bus and device number in most builds; the function is 0."""
    domain, bus, slot = (getattr(facts, f"pci_{part}_id", None) for part in ("domain", "bus", "device"))
    if domain is None or bus is None or slot is None:
        return None
    return f"{domain:04x}:{bus:02x}:{slot:02x}.0"
