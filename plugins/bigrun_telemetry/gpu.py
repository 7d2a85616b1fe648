"""Which GPU a run is on, in words that drivers understand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

from bigrun.devices.pci import link_speed, pci_address

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
    link_gbps: float | None = None
    """GB/s that its slot carries in one direction; None of an APU, and where the kernel does not say."""

    @classmethod
    def of(cls, device: torch.device) -> Gpu | None:
        """The GPU behind a torch device; None for a CPU. To be called by the run's own thread: the only question that
        telemetry asks of CUDA, and one that does not wait for the device."""
        import torch

        if device.type != "cuda":
            return None
        facts = torch.cuda.get_device_properties(device)
        uuid, address = getattr(facts, "uuid", None), pci_address(facts)
        is_integrated = bool(getattr(facts, "is_integrated", 0))
        return cls(
            vendor="amd" if torch.version.hip else "nvidia",
            name=facts.name,
            uuid=None if uuid is None else str(uuid),
            pci_address=address,
            is_integrated=is_integrated,
            link_gbps=None if address is None or is_integrated else link_speed(address),
        )
