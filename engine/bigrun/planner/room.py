"""The memory that there is for a run: the device's, and the machine's around it. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from bigrun.devices.facts import Backend

__all__ = ["Room"]


@attrs.frozen
class Room:
    """Of one process."""

    device: Backend
    device_bytes: int
    """What torch calls the device's total capacity."""
    ram_bytes: int
    """Of the machine, as its system counts it."""
    is_unified: bool
    """Whether device and host share their memory."""

    def excess_bytes(self, need_bytes: int, host_bytes: int) -> int:
        """By how much a run takes more than there is; 0 or less: it fits.

        A GPU that shares the machine's memory may have a part of it (62 of 125 GiB on Strix Halo, unless the driver is
        told otherwise), and what the host has must not be in that part: both together must fit into the machine. What
        firmware sets aside for the GPU is not in what the system counts; how much that is is not known, only that both
        together are no less than what the GPU has.

        Args:
            need_bytes: of the device.
            host_bytes: of the machine, beside that.
        """
        if self.device == "cpu":
            return need_bytes + host_bytes - self.device_bytes
        excess = need_bytes - self.device_bytes
        if not self.is_unified:
            return excess
        both = need_bytes + host_bytes - max(self.ram_bytes, self.device_bytes)
        return max(excess, host_bytes - self.ram_bytes, both)
