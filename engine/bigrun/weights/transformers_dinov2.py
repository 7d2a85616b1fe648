"""The layout of `Dinov2Model` and `Dinov2WithRegistersModel` of Hugging Face's transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.weights.dinov2 import Dinov2, with_position
from bigrun.weights.layout import Names
from bigrun.weights.qkv import join

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from bigrun.sections import Model

__all__ = ["TransformersDinov2"]

NAMES = Names(
    (
        ("cls_token", "embeddings.cls_token"),
        ("mask_token", "embeddings.mask_token"),
        ("storage_tokens", "embeddings.register_tokens"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("blocks.#.norm1", "encoder.layer.#.norm1"),
        ("blocks.#.norm2", "encoder.layer.#.norm2"),
        ("blocks.#.attn.q", "encoder.layer.#.attention.attention.query"),
        ("blocks.#.attn.k", "encoder.layer.#.attention.attention.key"),
        ("blocks.#.attn.v", "encoder.layer.#.attention.attention.value"),
        ("blocks.#.attn.proj", "encoder.layer.#.attention.output.dense"),
        ("blocks.#.ls1.gamma", "encoder.layer.#.layer_scale1.lambda1"),
        ("blocks.#.ls2.gamma", "encoder.layer.#.layer_scale2.lambda1"),
        ("blocks.#.attn.q", "encoder.layer.#.attention.q_proj"),
        ("blocks.#.attn.k", "encoder.layer.#.attention.k_proj"),
        ("blocks.#.attn.v", "encoder.layer.#.attention.v_proj"),
        ("blocks.#.attn.proj", "encoder.layer.#.attention.o_proj"),
        ("blocks.#.mlp.fc1", "encoder.layer.#.mlp.fc1"),
        ("blocks.#.mlp.fc2", "encoder.layer.#.mlp.fc2"),
        ("blocks.#.mlp.w12", "encoder.layer.#.mlp.weights_in"),
        ("blocks.#.mlp.w3", "encoder.layer.#.mlp.weights_out"),
        ("blocks.#.mlp.w1", "encoder.layer.#.mlp.gate_proj"),
        ("blocks.#.mlp.w2", "encoder.layer.#.mlp.up_proj"),
        ("blocks.#.mlp.w3", "encoder.layer.#.mlp.down_proj"),
        ("norm", "layernorm"),
    )
)


class TransformersDinov2(Dinov2):
    """Names of the published files, and those that transformers 5 has in memory. Queries, keys and values are three
    layers; gate and what it gates are one in a file, two in memory. It has a learned position embedding
    more than bigrun's network."""

    name = "transformers-dinov2"

    def matches(self, keys: Collection[str]) -> bool:
        scaled = any(key.endswith("layer_scale1.lambda1") for key in keys)  # ViTModel and others have none
        return scaled and "embeddings.patch_embeddings.projection.weight" in keys

    def to_own(self, state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
        """`pos_embed` stays, as in the layout dinov2."""
        own = {NAMES.to_own(name): tensor for name, tensor in state.items()}
        for name in [name for name in own if name.endswith(".attn.q.weight")]:
            join(own, name.removesuffix("q.weight"))
        for name in [name for name in own if ".mlp.w12." in name]:
            gate, gated = own.pop(name).chunk(2)
            own[name.replace("w12", "w1")], own[name.replace("w12", "w2")] = gate, gated
        return with_position(own)
