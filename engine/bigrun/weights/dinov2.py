"""The layout of the public DINOv2 weights (facebookresearch)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bigrun.errors import UsageError
from bigrun.weights.layout import Layout, Names

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from bigrun.sections import Model

__all__ = ["Dinov2", "with_position"]

NAMES = Names((("storage_tokens", "register_tokens"),))
CHUNK = re.compile(r"^blocks\.\d+\.(?=\d+\.)")  # of a training checkpoint: blocks.<chunk>.<block, counted from 0>.
PACKED = ".mlp.w12."


class Dinov2(Layout):
    """bigrun's names, but for the registers and a packed SwiGLU. What it has more is a learned position embedding."""

    name = "dinov2"

    def matches(self, keys: Collection[str]) -> bool:
        return "pos_embed" in keys or "register_tokens" in keys or any(PACKED in key for key in keys)

    def to_own(self, state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
        """`pos_embed` stays: RoPE has no place for it. Its part for the class token, a constant, is added to that."""
        own: dict[str, Tensor] = {}
        for name, tensor in state.items():
            name = CHUNK.sub("blocks.", NAMES.to_own(name))
            if PACKED in name:  # (2H, D): the gate, then what it gates
                own[name.replace(PACKED, ".mlp.w1.")], own[name.replace(PACKED, ".mlp.w2.")] = tensor.chunk(2)
            else:
                own[name] = tensor
        return with_position(own)

    def from_own(self, state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
        raise UsageError(
            f"the layout {self.name} cannot hold this backbone: a DINOv2 network has a learned position embedding "
            "where this one has RoPE; choose dinov3, timm or transformers"
        )


def with_position(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the first row of `pos_embed` (1, 1+P, D) to the class token (1, 1, D), for which it is a constant."""
    if "pos_embed" in own and "cls_token" in own:
        own["cls_token"] = own["cls_token"] + own["pos_embed"][:, :1]
    return own
