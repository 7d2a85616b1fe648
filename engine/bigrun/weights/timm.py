"""The layout of timm's DINOv3 models: class `Eva`, `vit_*_patch16_dinov3` and `vit_*_patch16_dinov3_qkvb`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.weights.layout import Layout, Names
from bigrun.weights.qkv import join_bias, split
from bigrun.weights.refuse import refuse_key_bias, refuse_norms

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from bigrun.sections import Model

__all__ = ["Timm"]

MLP = (
    ("storage_tokens", "reg_token"),
    ("blocks.#.ls1.gamma", "blocks.#.gamma_1"),
    ("blocks.#.ls2.gamma", "blocks.#.gamma_2"),
)
SWIGLU = (
    ("blocks.#.mlp.w1", "blocks.#.mlp.fc1_g"),
    ("blocks.#.mlp.w2", "blocks.#.mlp.fc1_x"),
    ("blocks.#.mlp.w3", "blocks.#.mlp.fc2"),
)
MARKS = ("reg_token", ".gamma_1", ".attn.q_bias", ".mlp.fc1_g.weight")
# What timm computes, or has no use for: a feature extractor masks nothing and sees no local crops.
DROPPED = ("rope_embed.periods", "mask_token", "local_cls_norm.weight", "local_cls_norm.bias")


class Timm(Layout):
    """Names of `Eva`; the bias of queries and values is apart from their layer, keys have none."""

    name = "timm"

    def matches(self, keys: Collection[str]) -> bool:
        return any(key.endswith(MARKS) for key in keys)

    def to_own(self, state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
        names = Names(SWIGLU + MLP if any(".mlp.fc1_g." in key for key in state) else MLP)
        own = {names.to_own(name): tensor for name, tensor in state.items()}
        for name in [name for name in own if name.endswith(".attn.q_bias")]:
            attention = name.removesuffix("q_bias")
            if attention + "v_bias" in own:
                own[attention + "qkv.bias"] = join_bias(own.pop(name), None, own.pop(attention + "v_bias"))
        return own

    def from_own(self, state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
        refuse_norms(self.name, model)
        names = Names(SWIGLU + MLP if model.ffn == "swiglu" else MLP)
        result = {}
        for name, tensor in state.items():
            if name in DROPPED or name.endswith(".bias_mask") or not tensor.numel():
                continue
            if name.endswith(".attn.qkv.bias"):
                refuse_key_bias(self.name, name, tensor, model)
                attention = name.removesuffix("qkv.bias")
                result[attention + "q_bias"], _, result[attention + "v_bias"] = split(tensor)
            else:
                result[names.from_own(name)] = tensor
        return result
