"""What the class token of the last block looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bigrun.model.block import Block
    from bigrun.model.groups import Qkv
    from bigrun.model.vit import Features, VisionTransformer

__all__ = ["look"]


@torch.no_grad()
def look(backbone: VisionTransformer, crops: Tensor) -> tuple[Features, Tensor]:
    """Features of crops (n, C, H, W), and the attention of the last block's class token to the patches.

    Returns:
        The features, and (n, h, Hp, Wp) fp32: for each head the softmax over all tokens, of which patches are shown.
    """
    block = cast("Block", backbone.blocks[-1])
    attention, found = block.attn, list[Tensor]()
    kernel = attention.kernel

    def watched(groups: Sequence[Qkv]) -> list[Tensor]:
        q, k, _ = groups[0]  # (n, h, N, d)
        logits = q[:, :, :1].float() @ k.float().mT * q.shape[-1] ** -0.5
        found.append(torch.softmax(logits, dim=-1)[:, :, 0, backbone.prefix :])
        return kernel(groups)

    attention.kernel = watched
    try:
        features = backbone(crops)
    finally:
        attention.kernel = kernel
    return features, found[0].view(*found[0].shape[:2], *features.grid)
