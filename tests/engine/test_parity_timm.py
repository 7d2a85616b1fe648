"""Weights of timm's DINOv3 models give the same features here, and ours give the same features there."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import LIMIT, ours_from_file, peer, photos, randomise, relative_difference
from safetensors.torch import save_file
from torch import Tensor, nn

from bigrun.model.vit import Features, VisionTransformer
from bigrun.sections import Model
from bigrun.weights.layouts import layout_named

# timm's name, what is made smaller, our model. Sizes that are not said are those of ViT-S.
SHAPES = {
    "without-qkv-bias": ("vit_small_patch16_dinov3", {}, Model(qkv_bias=False)),
    "zero-qkv-bias": ("vit_small_patch16_dinov3", {"depth": 2}, Model(depth=2)),
    "qkv-bias": ("vit_small_patch16_dinov3_qkvb", {}, Model()),
    "swiglu": ("vit_small_plus_patch16_dinov3_qkvb", {"depth": 2}, Model(depth=2, ffn="swiglu")),
}
SIZES = [(224, 224), (192, 128)]


@functools.cache
def build(shape: str) -> tuple[nn.Module, Model]:
    name, smaller, model = SHAPES[shape]
    theirs = peer("timm").create_model(name, pretrained=False, dynamic_img_size=True, **smaller)
    return theirs.eval(), model


def assert_same_features(theirs: nn.Module, ours: VisionTransformer) -> None:
    for size in SIZES:
        crops = photos(*size)
        with torch.no_grad():
            tokens: Tensor = theirs.forward_features(crops)  # (n, N, D), behind the norm
            features: Features = ours(crops)
        assert relative_difference(tokens[:, 0], features.cls) < LIMIT
        assert relative_difference(tokens[:, 1:5], features.storage) < LIMIT
        assert relative_difference(tokens[:, 5:], features.patches) < LIMIT


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_of_timm_give_the_same_features_here(shape: str, tmp_path: Path) -> None:
    theirs, model = build(shape)
    randomise(theirs)
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    ours, coverage = ours_from_file(tmp_path / "timm.safetensors", model)
    assert coverage.complete, coverage.details()
    assert coverage.layout == "timm"
    assert_same_features(theirs, ours)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "zero-qkv-bias"])
def test_our_weights_give_the_same_features_in_timm(shape: str) -> None:
    theirs, model = build(shape)
    ours = VisionTransformer(model).eval()
    randomise(ours)
    theirs.load_state_dict(layout_named("timm").from_own(ours.state_dict(), model))
    assert_same_features(theirs, ours)


def test_a_difference_in_one_gate_is_seen() -> None:
    """The comparison can fail: gate and value of SwiGLU, exchanged, are other features."""
    theirs, model = build("swiglu")
    ours = VisionTransformer(model).eval()
    randomise(ours)
    weights: dict[str, Any] = layout_named("timm").from_own(ours.state_dict(), model)
    first, second = "blocks.0.mlp.fc1_g.weight", "blocks.0.mlp.fc1_x.weight"
    weights[first], weights[second] = weights[second], weights[first]
    theirs.load_state_dict(weights)
    with pytest.raises(AssertionError):
        assert_same_features(theirs, ours)
