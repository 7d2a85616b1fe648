"""What a file gives a network, in percent and by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from peers import ours_from_file
from torch import Tensor

from bigrun.model.vit import VisionTransformer
from bigrun.sections import Model
from bigrun.weights.coverage import Coverage

TINY = Model(width=16, depth=2, heads=2, ffn_hidden=24, patch_size_px=4, storage_tokens=2, mask_k_bias=False)


def weights(model: Model = TINY) -> dict[str, Tensor]:
    state = VisionTransformer(model).state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in state.items():
        if "bias_mask" not in name and "periods" not in name:
            tensor.normal_(generator=generator)
    return state


def fitted(
    tmp_path: Path, state: dict[str, Tensor], model: Model = TINY, **init: Any
) -> tuple[VisionTransformer, Coverage]:
    torch.save(state, tmp_path / "w.pth")
    return ours_from_file(tmp_path / "w.pth", model, **init)


def test_everything_is_there(tmp_path: Path) -> None:
    state = weights()
    ours, coverage = fitted(tmp_path, state)
    assert coverage.complete
    parameters = dict(ours.named_parameters())
    assert coverage.summary() == (
        f"{len(parameters)} of {len(parameters)} tensors, 100 % of parameters from {tmp_path / 'w.pth'} (layout dinov3)"
    )
    assert not coverage.details()
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())


def test_what_is_missing_left_over_or_misshaped_is_named_and_counted(tmp_path: Path) -> None:
    state = weights()
    count = sum(p.numel() for p in VisionTransformer(TINY).parameters())
    gone = state.pop("blocks.1.mlp.fc1.weight").numel()
    state["head.weight"] = torch.zeros(3)
    state["norm.bias"] = torch.zeros(5)
    _, coverage = fitted(tmp_path, state)
    assert not coverage.complete
    assert coverage.missing == ("blocks.1.mlp.fc1.weight",)
    assert coverage.unused == ("head.weight",)
    assert coverage.misfits == ("norm.bias has shape (5,), expected (16,)",)
    assert coverage.fraction == pytest.approx(1 - (gone + 16) / count)
    assert f"{100 * coverage.fraction - 0.005:.2f} %" in coverage.summary()
    assert coverage.details() == [
        "missing (1): blocks.1.mlp.fc1.weight",
        "unused (1): head.weight",
        "misfit (1): norm.bias has shape (5,), expected (16,)",
    ]


def test_all_but_one_number_is_not_100_percent(tmp_path: Path) -> None:
    coverage = Coverage("w", "timm", {"a": 10**9, "b": 1}, frozenset({"a"}), {}, ("b",), (), ())
    assert "99.99 % of parameters" in coverage.summary()


@pytest.mark.parametrize("untied", [False, True])
def test_norms_of_their_own_begin_as_the_norm_of_the_file(tmp_path: Path, untied: bool) -> None:
    """So the network is the file's: DINOv3's small public models have one final norm."""
    single = attrs.evolve(TINY, untie_global_and_local_cls_norm=False)
    several = attrs.evolve(TINY, untie_global_and_local_cls_norm=True, untie_cls_and_patch_norms=untied)
    state = weights(single)
    theirs = VisionTransformer(single).eval()
    theirs.load_state_dict(state)
    ours, coverage = fitted(tmp_path, state, several)
    assert coverage.complete
    assert coverage.implied["local_cls_norm.weight"] == "as norm.weight"
    assert ours.local_cls_norm is not None
    assert torch.equal(ours.local_cls_norm.bias, state["norm.bias"])
    crops = torch.randn(1, 3, 8, 8)
    assert torch.equal(ours(crops).cls, theirs(crops).cls)


def test_the_local_norm_begins_as_that_of_the_class_token(tmp_path: Path) -> None:
    untied = attrs.evolve(TINY, untie_cls_and_patch_norms=True, untie_global_and_local_cls_norm=False)
    ours, coverage = fitted(tmp_path, weights(untied), attrs.evolve(untied, untie_global_and_local_cls_norm=True))
    assert coverage.implied["local_cls_norm.bias"] == "as cls_norm.bias"
    assert ours.local_cls_norm is not None
    assert ours.cls_norm is not None
    assert torch.equal(ours.local_cls_norm.weight, ours.cls_norm.weight)


def test_zero_may_be_left_out(tmp_path: Path) -> None:
    """A network without a bias is one whose bias is zero; no image has a mask token."""
    without = attrs.evolve(TINY, qkv_bias=False)
    state = weights(without)
    del state["mask_token"]
    ours, coverage = fitted(tmp_path, state)
    assert coverage.complete
    assert coverage.implied["mask_token"] == coverage.implied["blocks.1.attn.qkv.bias"] == "zero"
    assert ours.blocks[0].attn.qkv.bias.count_nonzero() == 0
    assert coverage.fraction < 1


def test_a_bias_of_the_keys_that_the_model_holds_at_zero_is_left_over(tmp_path: Path) -> None:
    state = weights()
    ours, coverage = fitted(tmp_path, state, attrs.evolve(TINY, mask_k_bias=True))
    assert coverage.unused == tuple(
        f"the keys' part of blocks.{i}.attn.qkv.bias (model.mask_k_bias = true)" for i in (0, 1)
    )
    q, k, v = ours.blocks[0].attn.qkv.bias.chunk(3)
    before = state["blocks.0.attn.qkv.bias"].chunk(3)
    assert k.count_nonzero() == 0
    assert torch.equal(q, before[0])
    assert torch.equal(v, before[2])


def test_periods_are_taken_when_only_rounded_and_refused_when_others(tmp_path: Path) -> None:
    """Public files have periods that were rounded to bf16; those of another base would be another network."""
    model = attrs.evolve(TINY, rope_base=30.0)
    state = weights(model)
    rounded = state["rope_embed.periods"].bfloat16()
    assert not torch.equal(rounded.float(), state["rope_embed.periods"])
    ours, coverage = fitted(tmp_path, state | {"rope_embed.periods": rounded}, model)
    assert coverage.complete
    assert torch.equal(ours.rope_embed.periods, rounded.float())
    ours, coverage = fitted(tmp_path, state, attrs.evolve(TINY, rope_base=1000.0))
    assert coverage.misfits == ("rope_embed.periods are not those of model.rope_base or model.rope_period_range",)
    assert not torch.equal(ours.rope_embed.periods, state["rope_embed.periods"])


def test_halves_become_floats(tmp_path: Path) -> None:
    state = {name: tensor.bfloat16() for name, tensor in weights().items() if "periods" not in name}
    ours, coverage = fitted(tmp_path, state)
    assert coverage.complete
    assert ours.norm.weight.dtype is torch.float32
    assert torch.equal(ours.norm.weight, state["norm.weight"].float())
