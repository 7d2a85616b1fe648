"""A network whose weights are in host memory while nobody computes with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bigrun.planner.offload import in_host_memory

__all__ = ["TeacherOffload"]


class TeacherOffload:
    """Brings a backbone's weights to the device for each of its forward passes, and for its update.

    A forward pass does not change them, so they are copied back after an update only. Whoever asks for the tensors in
    between, as a checkpoint does, finds those of the host.
    """

    def __init__(self, backbone: nn.Module, device: torch.device) -> None:
        self._device = device
        self._parameters = list(backbone.parameters())
        self._host = [self._room(parameter) for parameter in self._parameters]
        self.is_here = True
        """Whether the weights are on the device."""
        self.keep()
        backbone.register_forward_pre_hook(self._before)
        backbone.register_forward_hook(self._after, always_call=True)

    def _room(self, parameter: Tensor) -> Tensor:
        pinned = self._device.type == "cuda"
        with in_host_memory():
            return torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu", pin_memory=pinned)

    def bring(self) -> None:
        """To the device."""
        if not self.is_here:
            for parameter, host in zip(self._parameters, self._host, strict=True):
                parameter.data = host.to(self._device, non_blocking=True, copy=True)
            self.is_here = True

    def leave(self) -> None:
        """Free the device's memory; what was changed there is lost."""
        for parameter, host in zip(self._parameters, self._host, strict=True):
            parameter.data = host
        self.is_here = False

    def keep(self) -> None:
        """Copy what was changed, then leave."""
        if self.is_here:
            for parameter, host in zip(self._parameters, self._host, strict=True):
                host.copy_(parameter.detach(), non_blocking=True)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # the host reads them next, as for a checkpoint
            self.leave()

    def _before(self, module: nn.Module, arguments: Any) -> None:
        self.bring()

    def _after(self, module: nn.Module, arguments: Any, result: Any) -> None:
        self.leave()
