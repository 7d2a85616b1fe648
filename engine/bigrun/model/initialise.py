"""First values of every parameter and buffer of a network."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["initialise"]


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Set every parameter and buffer, whatever it was: the storage that `to_empty` gives holds anything.

    Weights of linear layers: normal, std 0.02, cut at +-2 (100 std); biases 0. Convolutions: uniform within
    1 / sqrt(C p^2). LayerNorm 1 and 0. Any other module that has tensors of its own sets them in its method
    `initialise()`, which takes nothing.

    Raises:
        TypeError: a module has tensors and is neither of these nor has that method.
    """
    for module in network.modules():
        known = _torch_layer(module)
        if callable(own := getattr(module, "initialise", None)):
            own()
        elif not known and _owns_tensors(module):
            raise TypeError(f"{type(module).__name__} has tensors and no method initialise() that sets them")


def _torch_layer(module: nn.Module) -> bool:
    """Set a layer of torch's; whether it is one that has a rule."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-2.0, b=2.0)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        bound = 1 / math.sqrt(module.weight[0].numel())
        nn.init.uniform_(module.weight, -bound, bound)
        if module.bias is not None:
            nn.init.uniform_(module.bias, -bound, bound)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    else:
        return False
    return True


def _owns_tensors(module: nn.Module) -> bool:
    return any(True for _ in (*module.parameters(recurse=False), *module.buffers(recurse=False)))
