"""Weights of transformers' `Dinov2Model` and `Dinov2WithRegistersModel` are read by name, and give their features once
our network has learned positions in the place of RoPE."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from peers import LIMIT, ours_from_file, peer, photos, randomise, relative_difference
from torch import nn

from bigrun.errors import UsageError
from bigrun.model.vit import VisionTransformer
from bigrun.sections import Model
from bigrun.weights.layouts import layout_named

GRID = 6
GATED = 176  # of SwiGLU for an mlp_ratio of 4: two thirds of 256, to the next multiple of 8
SMALL = Model(width=64, depth=2, heads=2, ffn_hidden=256, patch_size_px=14, norm="layernorm", mask_k_bias=False)


def build(registers: int, *, gated: bool) -> nn.Module:
    library = peer("transformers")
    kind, more = "Dinov2", {}
    if registers:
        kind, more = "Dinov2WithRegisters", {"num_register_tokens": registers}
    config = getattr(library, f"{kind}Config")(
        hidden_size=SMALL.width,
        num_hidden_layers=SMALL.depth,
        num_attention_heads=SMALL.heads,
        mlp_ratio=4,
        image_size=GRID * SMALL.patch_size_px,
        patch_size=SMALL.patch_size_px,
        use_swiglu_ffn=gated,
        **more,
    )
    return getattr(library, f"{kind}Model")(config).eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("registers", [0, 3])
def test_weights_of_transformers_give_the_same_features_here(registers: int, gated: bool, tmp_path: Path) -> None:
    """From the files that `save_pretrained` writes with an index, and from the names that the model has in memory."""
    theirs = build(registers, gated=gated)
    randomise(theirs)
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    index = tmp_path / "model.safetensors.index.json"
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    torch.save(theirs.state_dict(), tmp_path / "memory.pth")
    hidden = GATED if gated else SMALL.ffn_hidden
    model = Model(
        width=64, depth=2, heads=2, ffn="swiglu" if gated else "mlp", ffn_hidden=hidden, patch_size_px=14,
        storage_tokens=registers, norm="layernorm", mask_k_bias=False,
    )  # fmt: skip
    for file in (index, tmp_path / "memory.pth"):
        ours, coverage = ours_from_file(file, model)
        assert coverage.layout == "transformers-dinov2"
        assert coverage.unused == ("pos_embed",)
        assert not coverage.missing
        assert not coverage.misfits
        assert_same_features(theirs, ours, registers)


def assert_same_features(theirs: nn.Module, ours: VisionTransformer, registers: int) -> None:
    """With infinite periods RoPE turns nothing; the positions are added to what the patch embedding gives."""
    crops = photos(GRID * 14, GRID * 14)
    positions = theirs.state_dict()["embeddings.position_embeddings"][:, 1:].mT.reshape(1, -1, GRID, GRID)
    ours.rope_embed.periods.fill_(math.inf)
    ours.patch_embed.register_forward_hook(lambda module, inputs, embedded: embedded + positions)
    with torch.no_grad():
        tokens, features = theirs(crops).last_hidden_state, ours(crops)
    assert relative_difference(tokens[:, 0], features.cls) < LIMIT
    assert relative_difference(tokens[:, 1 + registers :], features.patches) < LIMIT


def test_no_such_file_is_written() -> None:
    with pytest.raises(UsageError, match="the layout transformers-dinov2 cannot hold this backbone"):
        layout_named("transformers-dinov2").from_own({}, SMALL)
