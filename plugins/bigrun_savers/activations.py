"""Activations that wait in host memory from the forward to the backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from bigrun.planner.offload import in_host_memory

__all__ = ["ActivationOffload", "HostCopy"]


@attrs.frozen(eq=False)
class HostCopy:
    """A tensor in host memory, and where it belongs."""

    tensor: Tensor
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> HostCopy:
        """Into page-locked memory where it comes from a GPU: a faster copy, in line with the GPU's other work."""
        pinned = tensor.device.type == "cuda"
        with in_host_memory():
            host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=pinned)
        return cls(host.copy_(tensor, non_blocking=pinned), tensor.device)

    def back(self) -> Tensor:
        """A copy where it was; the queue of the GPU keeps the order of both copies."""
        return self.tensor.to(self.device, non_blocking=True, copy=True)


class ActivationOffload:
    """Copies what a backbone keeps for its backward pass to the host, and back when it is asked for.

    Weights stay where they are, and autocast's copies of them, which autocast holds anyway: every tensor of the shape
    of a parameter or of its transpose. Of a checkpointed block it is the arguments that wait.
    """

    def __init__(self, backbone: nn.Module, to_host: Callable[[Tensor], Any] = HostCopy.of) -> None:
        self._to_host = to_host
        shapes = {tuple(parameter.shape) for parameter in backbone.parameters()}
        self._kept = shapes | {shape[::-1] for shape in shapes}
        for method in ("forward", "forward_list"):
            if hasattr(backbone, method):
                setattr(backbone, method, self._around(getattr(backbone, method)))

    def _around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def offloading(*args: Any, **kwargs: Any) -> Any:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
                return method(*args, **kwargs)

        return offloading

    def _pack(self, tensor: Tensor) -> Any:
        stays = tensor.ndim == 0 or tuple(tensor.shape) in self._kept
        return tensor if stays else self._to_host(tensor)

    @staticmethod
    def _unpack(packed: Any) -> Tensor:
        tensor: Tensor = packed if isinstance(packed, Tensor) else packed.back()
        return tensor
