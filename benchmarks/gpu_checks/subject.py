"""What a check is made on."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from gpu_checks.check import Skip

if TYPE_CHECKING:
    import torch

    from bigrun.devices import DeviceFacts

__all__ = ["Subject"]


@attrs.frozen(slots=False)
class Subject:
    """A device, and where to write."""

    device_type: str
    """cuda (an AMD GPU too) or cpu."""
    tiny: bool
    directory: Path

    @classmethod
    def of(cls, device: str, directory: str, *, tiny: bool) -> Subject:
        """From JSON."""
        return cls(device, tiny, Path(directory))

    @functools.cached_property
    def device(self) -> torch.device:
        """
        Raises:
            UsageError: torch sees no GPU.
        """
        from bigrun.devices.choose import choose_device

        return choose_device("cpu" if self.device_type == "cpu" else "auto")

    @functools.cached_property
    def facts(self) -> DeviceFacts:
        from bigrun.devices.read import read_facts

        return read_facts(self.device, self.directory)

    @property
    def is_gpu(self) -> bool:
        return self.device_type != "cpu"

    def require_gpu(self, why: str) -> None:
        """
        Raises:
            Skip: this is a CPU.
        """
        if not self.facts.is_gpu:
            raise Skip(f"{why}; this is a CPU")

    def require_nvidia(self, why: str) -> None:
        """
        Raises:
            Skip: this is no NVIDIA GPU.
        """
        if self.facts.backend != "cuda":
            raise Skip(f"{why}; this is {'a CPU' if not self.facts.is_gpu else self.facts.arch}")
