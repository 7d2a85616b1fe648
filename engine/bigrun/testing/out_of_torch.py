"""Memory that is not torch's, in the place of a host's beside a GPU."""

from __future__ import annotations

import attrs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["OutOfTorch"]


@attrs.frozen(eq=False)
class OutOfTorch:
    """A copy of a tensor: what torch holds without the original is what a device would hold."""

    bytes: npt.NDArray[np.uint8]
    like: Tensor

    @classmethod
    def of(cls, tensor: Tensor) -> OutOfTorch:
        """Copy it."""
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().copy()
        return cls(flat, torch.empty_like(tensor, device="meta"))

    def back(self) -> Tensor:
        """The tensor, in memory of torch's own."""
        return torch.from_numpy(self.bytes.copy()).view(self.like.dtype).reshape(self.like.shape)
