"""Weights of transformers' `DINOv3ViTModel` give the same features here, and ours give the same features there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peers import LIMIT, ours_from_file, peer, photos, randomise, relative_difference
from safetensors.torch import save_file
from torch import nn

from bigrun.model.vit import VisionTransformer
from bigrun.sections import Model
from bigrun.weights.layouts import layout_named

SMALL = {"width": 64, "depth": 2, "heads": 2, "ffn_hidden": 96, "storage_tokens": 3}
SHAPES = {
    "mlp": Model(**SMALL),
    "gated": Model(**SMALL, ffn="swiglu"),
    "key-bias": Model(**SMALL, mask_k_bias=False),
    "no-biases": Model(**SMALL, qkv_bias=False, proj_bias=False, ffn_bias=False),
    "other-eps": Model(**SMALL, norm="layernorm"),
}
CASES = pytest.mark.parametrize("shape", SHAPES)


def build(model: Model) -> nn.Module:
    library = peer("transformers")
    gated = model.ffn == "swiglu"
    config = library.DINOv3ViTConfig(
        hidden_size=model.width,
        num_hidden_layers=model.depth,
        num_attention_heads=model.heads,
        intermediate_size=model.ffn_hidden,
        num_register_tokens=model.storage_tokens,
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",  # the published gated models have silu
        query_bias=model.qkv_bias,
        key_bias=model.qkv_bias and not model.mask_k_bias,
        value_bias=model.qkv_bias,
        proj_bias=model.proj_bias,
        mlp_bias=model.ffn_bias,
        layer_norm_eps=1e-6 if model.norm == "layernorm" else 1e-5,
    )
    return library.DINOv3ViTModel(config).eval()


def assert_same_features(theirs: nn.Module, ours: VisionTransformer) -> None:
    for size in [(224, 224), (192, 128)]:
        crops = photos(*size)
        with torch.no_grad():
            tokens, features = theirs(crops).last_hidden_state, ours(crops)
        assert relative_difference(tokens[:, 0], features.cls) < LIMIT
        assert relative_difference(tokens[:, 1:4], features.storage) < LIMIT
        assert relative_difference(tokens[:, 4:], features.patches) < LIMIT


@CASES
def test_weights_of_transformers_give_the_same_features_here(shape: str, tmp_path: Path) -> None:
    """From the file that `save_pretrained` writes, and from the names that the model has in memory."""
    theirs = build(SHAPES[shape])
    randomise(theirs)
    theirs.save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "memory.pth")
    for file in ("model.safetensors", "memory.pth"):
        ours, coverage = ours_from_file(tmp_path / file, SHAPES[shape])
        assert coverage.complete, coverage.details()
        assert coverage.layout == "transformers"
        assert_same_features(theirs, ours)


@CASES
def test_our_weights_give_the_same_features_in_transformers(shape: str, tmp_path: Path) -> None:
    model = SHAPES[shape]
    ours = VisionTransformer(model).eval()
    randomise(ours)
    build(model).save_pretrained(tmp_path)
    save_file(
        layout_named("transformers").from_own(ours.state_dict(), model),
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    kind = peer("transformers").DINOv3ViTModel
    theirs, report = kind.from_pretrained(tmp_path, local_files_only=True, output_loading_info=True)
    assert not any(report.values()), report
    assert_same_features(theirs.eval(), ours)
