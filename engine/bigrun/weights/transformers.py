"""The layout of `DINOv3ViTModel` of Hugging Face's transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.weights.layout import Layout, Names
from bigrun.weights.qkv import join, split
from bigrun.weights.refuse import refuse_norms

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from bigrun.sections import Model

__all__ = ["Transformers"]

COMMON = (
    ("cls_token", "embeddings.cls_token"),
    ("mask_token", "embeddings.mask_token"),
    ("storage_tokens", "embeddings.register_tokens"),
    ("patch_embed.proj", "embeddings.patch_embeddings"),
    ("blocks.#.norm1", "layer.#.norm1"),
    ("blocks.#.norm2", "layer.#.norm2"),
    ("blocks.#.attn.q", "layer.#.attention.q_proj"),
    ("blocks.#.attn.k", "layer.#.attention.k_proj"),
    ("blocks.#.attn.v", "layer.#.attention.v_proj"),
    ("blocks.#.attn.proj", "layer.#.attention.o_proj"),
    ("blocks.#.ls1.gamma", "layer.#.layer_scale1.lambda1"),
    ("blocks.#.ls2.gamma", "layer.#.layer_scale2.lambda1"),
)
MLP = (
    ("blocks.#.mlp.fc1", "layer.#.mlp.up_proj"),
    ("blocks.#.mlp.fc2", "layer.#.mlp.down_proj"),
)
GATED = (
    ("blocks.#.mlp.w1", "layer.#.mlp.gate_proj"),
    ("blocks.#.mlp.w2", "layer.#.mlp.up_proj"),
    ("blocks.#.mlp.w3", "layer.#.mlp.down_proj"),
)
# What transformers computes, or has no use for.
DROPPED = ("rope_embed.periods", "local_cls_norm.weight", "local_cls_norm.bias")


class Transformers(Layout):
    """Names of the published files, `layer.0.`; in memory transformers 5 says `model.layer.0.`. Queries, keys and
    values are three layers.
    """

    name = "transformers"

    def matches(self, keys: Collection[str]) -> bool:
        return "embeddings.patch_embeddings.weight" in keys

    def to_own(self, state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
        gated = any(".mlp.gate_proj." in key for key in state)
        names = Names(COMMON + (GATED if gated else MLP))
        own = {names.to_own(_short(name)): tensor for name, tensor in state.items()}
        if "mask_token" in own:  # (1, 1, D)
            own["mask_token"] = own["mask_token"].flatten(0, -2)
        for name in [name for name in own if name.endswith(".attn.q.weight")]:
            join(own, name.removesuffix("q.weight"))
        return own

    def from_own(self, state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
        refuse_norms(self.name, model)
        names = Names(COMMON + (GATED if model.ffn == "swiglu" else MLP))
        apart: dict[str, Tensor] = {}
        for name, tensor in state.items():
            if name in DROPPED or name.endswith(".bias_mask"):
                continue
            attention, joined, kind = name.partition("qkv.")
            if joined:
                apart |= {f"{attention}{part}.{kind}": value for part, value in zip("qkv", split(tensor), strict=True)}
                if kind == "bias" and model.mask_k_bias:
                    del apart[attention + "k.bias"]
            else:
                apart[name] = tensor[None] if name == "mask_token" else tensor
        return {names.from_own(name): tensor for name, tensor in apart.items()}


def _short(name: str) -> str:
    return name.removeprefix("model.") if name.startswith("model.layer.") else name
