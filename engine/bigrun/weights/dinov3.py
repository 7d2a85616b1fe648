"""The layout of the public DINOv3 weights (facebookresearch), which is bigrun's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.weights.layout import Layout
from bigrun.weights.qkv import without_key_bias

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from bigrun.sections import Model

__all__ = ["Dinov3"]


class Dinov3(Layout):
    """bigrun's names."""

    name = "dinov3"

    def matches(self, keys: Collection[str]) -> bool:
        return "cls_token" in keys and "patch_embed.proj.weight" in keys

    def to_own(self, state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
        """A bias mask is taken for what it says, that keys have no bias; whoever needs one computes it."""
        own = {name: tensor for name, tensor in state.items() if not name.endswith(".bias_mask")}
        for name in state.keys() - own.keys():
            bias = name.removesuffix("_mask")
            if bias in own:
                own[bias] = without_key_bias(own[bias])
        return own

    def from_own(self, state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
        return dict(state)
