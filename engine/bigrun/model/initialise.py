"""First values of every parameter and buffer of a network."""

from __future__ import annotations

import math

import torch
from torch import nn

from bigrun.model.attention import QkvLinear
from bigrun.model.block import LayerScale, RmsNorm
from bigrun.model.rope import Rope

__all__ = ["initialise"]


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Set every parameter and buffer; what a kind of module holds is set by its kind, tokens by their name.

    Weights of linear layers: normal, std 0.02, cut at +-2 (100 std); biases 0. Patch projection: uniform within
    1 / sqrt(C p^2). Class and storage tokens: normal, std 0.02; mask token 0. Norms 1 and 0. LayerScale: its start.
    """
    for module in network.modules():
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
        elif isinstance(module, RmsNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, LayerScale):
            nn.init.constant_(module.gamma, module.start)
        if isinstance(module, Rope | QkvLinear):
            module.initialise()
    for name, parameter in network.named_parameters(recurse=False):
        if name in ("cls_token", "storage_tokens"):
            nn.init.normal_(parameter, std=0.02)
        elif name == "mask_token":
            nn.init.zeros_(parameter)
