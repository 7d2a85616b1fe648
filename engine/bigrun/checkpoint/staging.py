"""A copy of the state in host memory, so that training goes on while it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

__all__ = ["Staging", "count_bytes"]

Groups = dict[str, dict[str, "Tensor"]]


class Staging:
    """Buffers of the size of the state, made at the first copy and used again by every later one."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def copy(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> Groups:
        """The same tensors in host memory; they are what they were until the next call.

        From a GPU all copies are queued into pinned memory and awaited once.

        Raises:
            MemoryError: there is no room for the buffers; none are kept.
        """
        names = {(group, name) for group, members in tensors.items() for name in members}
        self._buffers = {key: buffer for key, buffer in self._buffers.items() if key in names}
        devices = set()
        copied: Groups = {}
        try:
            for group, members in tensors.items():
                copied[group] = {name: self._copy(group, name, tensor) for name, tensor in members.items()}
                devices |= {tensor.device for tensor in members.values() if tensor.device.type == "cuda"}
        except RuntimeError as error:  # torch's allocators raise no MemoryError
            self.release()
            if "memory" not in str(error):
                raise
            raise MemoryError(str(error)) from error
        for device in devices:
            torch.cuda.synchronize(device)
        return copied

    def release(self) -> None:
        """Give the memory back."""
        self._buffers.clear()

    def _copy(self, group: str, name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        buffer = self._buffers.get((group, name))
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            pinned = tensor.device.type == "cuda"
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=pinned)
            self._buffers[group, name] = buffer
        return buffer.copy_(tensor, non_blocking=True)


def count_bytes(tensors: Iterable[Tensor]) -> int:
    """The bytes of all tensors, which is all but a thousandth of what a checkpoint of them takes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
