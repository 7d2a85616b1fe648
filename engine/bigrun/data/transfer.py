"""Numbers on their way to the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["transfer"]


def transfer(arrays: Sequence[npt.NDArray[Any]], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Each array on the device, as fp32 and as int64, after one copy that the host does not wait for.

    They travel as float64, which holds every integer below 2^53.
    """
    packed = torch.from_numpy(np.concatenate([array.ravel() for array in arrays], dtype=np.float64))
    if device.type == "cuda":
        packed = packed.pin_memory()
    packed = packed.to(device, non_blocking=True)
    lengths = [array.size for array in arrays]
    floats, integers = (torch.split(numbers, lengths) for numbers in (packed.float(), packed.long()))
    for array, real, whole in zip(arrays, floats, integers, strict=True):
        yield real.view(array.shape), whole.view(array.shape)
