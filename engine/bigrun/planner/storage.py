"""Storage for modules on the meta device, where torch's own way does not take tensors without values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["give_storage"]


def give_storage(module: nn.Module) -> None:
    """Replace every parameter and buffer on the meta device by one on the CPU, of undefined values; what is shared
    stays shared.

    `nn.Module.to_empty` swaps tensors, which those of `FakeTensorMode` refuse.
    """
    made: dict[Tensor, Tensor] = {}
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is None or not tensor.is_meta:
                    continue
                if tensor not in made:
                    empty = torch.empty_like(tensor, device="cpu")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[tensor] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
                table[name] = made[tensor]  # type: ignore[assignment]
