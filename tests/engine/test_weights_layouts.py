"""Layouts: the same tensors under other projects' names, there and back."""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bigrun.errors import UsageError
from bigrun.model.vit import VisionTransformer
from bigrun.sections import Model
from bigrun.weights.layout import Names
from bigrun.weights.layouts import LAYOUTS, layout_named, recognise

TINY = Model(width=16, depth=2, heads=2, ffn_hidden=24, patch_size_px=4, storage_tokens=2)
NAMES = [layout.name for layout in LAYOUTS]

models = st.builds(
    lambda **options: attrs.evolve(TINY, **options),
    depth=st.integers(1, 3),
    ffn=st.sampled_from(["mlp", "swiglu"]),
    storage_tokens=st.integers(0, 2),
    qkv_bias=st.booleans(),
    proj_bias=st.booleans(),
    ffn_bias=st.booleans(),
    layerscale=st.sampled_from([None, 0.1]),
    untie_global_and_local_cls_norm=st.booleans(),
)


def weights(model: Model = TINY) -> dict[str, Tensor]:
    """A state dict in which no two values are equal by chance, and keys have no bias."""
    torch.manual_seed(0)
    state = VisionTransformer(model).state_dict()
    for name, tensor in state.items():
        if "bias_mask" not in name and "periods" not in name:
            tensor.normal_()
        if name.endswith("qkv.bias") and model.mask_k_bias:
            tensor.chunk(3)[1].zero_()
    return state


def dinov2(state: dict[str, Tensor], *, positions: bool) -> dict[str, Tensor]:
    """The names of DINOv2, written down once more."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".mlp.w1." in name:
            result[name.replace("w1", "w12")] = torch.cat([tensor, state[name.replace("w1", "w2")]])
        elif ".mlp.w2." not in name and "bias_mask" not in name and "rope" not in name and "local" not in name:
            result["register_tokens" if name == "storage_tokens" else name] = tensor
    return result | ({"pos_embed": torch.randn(1, 5, 16)} if positions else {})


@given(model=models, name=st.sampled_from(["dinov3", "timm", "transformers"]))
@settings(deadline=None, max_examples=40)
def test_there_and_back_every_value_is_the_same(model: Model, name: str) -> None:
    """What does not come back is what the other project computes, or has no use for."""
    state, layout = weights(model), layout_named(name)
    back = layout.to_own(layout.from_own(state, model), model)
    for key in back:
        assert torch.equal(back[key], state[key]), key
    lost = {key.rsplit(".", 1)[-1] if "bias_mask" in key else key for key in state.keys() - back.keys()}
    local = {"local_cls_norm.weight", "local_cls_norm.bias"}
    assert (
        lost
        <= {
            "dinov3": {"bias_mask"},
            "timm": {"bias_mask", "rope_embed.periods", "mask_token", *local}
            | (set() if model.storage_tokens else {"storage_tokens"}),
            "transformers": {"bias_mask", "rope_embed.periods", *local},
        }[name]
    )


@given(model=models, name=st.sampled_from(["timm", "transformers"]))
@settings(deadline=None, max_examples=40)
def test_a_layout_is_recognised_by_its_names(model: Model, name: str) -> None:
    """A timm file without registers, LayerScale, bias and SwiGLU has bigrun's own names, and is read by these."""
    keys = layout_named(name).from_own(weights(model), model).keys()
    plain = model.layerscale is None and not model.qkv_bias and model.ffn == "mlp" and model.storage_tokens == 0
    assert recognise(keys).name == ("dinov3" if plain and name == "timm" else name)


@pytest.mark.parametrize("name", ["dinov3", "timm", "transformers"])
def test_tensors_of_a_file_share_no_storage(name: str) -> None:
    """safetensors refuses to write tensors that do."""
    written = layout_named(name).from_own(weights(), TINY)
    assert len({tensor.untyped_storage().data_ptr() for tensor in written.values()}) == len(written)


@pytest.mark.parametrize("name", ["dinov3", "timm", "transformers"])
def test_layouts_translate_shapes_alone(name: str) -> None:
    with torch.device("meta"):
        state = VisionTransformer(TINY).state_dict()
    layout = layout_named(name)
    back = layout.to_own(layout.from_own(state, TINY), TINY)
    assert all(tensor.is_meta and tensor.shape == state[key].shape for key, tensor in back.items())


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("chunked", [False, True])
def test_dinov2_has_other_registers_and_a_packed_gate(ffn: str, chunked: bool) -> None:
    state = weights(attrs.evolve(TINY, ffn=ffn))
    file = dinov2(state, positions=True)
    if chunked:  # as in DINOv2's training checkpoints: blocks.<chunk>.<block>
        file = {key.replace("blocks.", "blocks.1."): value for key, value in file.items()}
    assert recognise(file).name == "dinov2"
    own = layout_named("dinov2").to_own(file, TINY)
    assert torch.equal(own.pop("pos_embed"), file["pos_embed"])
    assert torch.equal(own.pop("cls_token"), state["cls_token"] + file["pos_embed"][:, :1])
    for key, value in own.items():
        assert torch.equal(value, state[key]), key
    assert not [key for key in state.keys() - own.keys() if key.startswith("blocks") and "bias_mask" not in key]


def test_dinov2_without_positions_keeps_its_class_token() -> None:
    state = weights()
    own = layout_named("dinov2").to_own(dinov2(state, positions=False), TINY)
    assert torch.equal(own["cls_token"], state["cls_token"])


def test_a_bias_mask_says_that_keys_have_no_bias() -> None:
    """Whatever stands in the masked third, and whatever the mask holds: public files have NaN there."""
    state = weights()
    bias = "blocks.0.attn.qkv.bias"
    file = state | {bias: torch.full_like(state[bias], 7.0), f"{bias}_mask": torch.full_like(state[bias], torch.nan)}
    q, k, v = layout_named("dinov3").to_own(file, TINY)[bias].chunk(3)
    assert k.count_nonzero() == 0
    assert (q == 7).all()
    assert (v == 7).all()
    del file[f"{bias}_mask"]
    assert (layout_named("dinov3").to_own(file, TINY)[bias] == 7).all()


def test_a_key_bias_goes_to_transformers_and_is_refused_for_timm() -> None:
    model = attrs.evolve(TINY, mask_k_bias=False)
    state = weights(model)
    there = layout_named("transformers").from_own(state, model)
    assert torch.equal(there["layer.1.attention.k_proj.bias"], state["blocks.1.attn.qkv.bias"].chunk(3)[1])
    with pytest.raises(UsageError, match=r"keys' part of blocks\.0\.attn\.qkv\.bias is not zero"):
        layout_named("timm").from_own(state, model)
    for name, bias in state.items():
        if name.endswith("qkv.bias"):
            bias.chunk(3)[1].zero_()
    assert "blocks.0.attn.q_bias" in layout_named("timm").from_own(state, model)


@pytest.mark.parametrize("name", ["timm", "transformers"])
@pytest.mark.parametrize("options", [{"norm": "rmsnorm"}, {"untie_cls_and_patch_norms": True}])
def test_what_other_networks_cannot_be_is_refused(name: str, options: dict[str, object]) -> None:
    model = attrs.evolve(TINY, **options)
    with pytest.raises(UsageError, match="cannot hold this backbone"):
        layout_named(name).from_own(weights(model), model)


def test_no_dinov2_file_is_written() -> None:
    with pytest.raises(UsageError, match="RoPE"):
        layout_named("dinov2").from_own(weights(), TINY)


def test_an_unknown_layout_is_named_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="did you mean 'timm'") as caught:
        layout_named("tim")
    assert all(name in str(caught.value) for name in NAMES)
    with pytest.raises(UsageError, match=r"no layout that is known.*the first are: conv1\.weight, fc\.bias"):
        recognise(["fc.bias", "conv1.weight"])


def test_a_name_of_no_layout_stays_as_it_is() -> None:
    for name in NAMES:
        own = layout_named(name).to_own({"head.weight": torch.zeros(2)}, TINY)
        assert list(own) == ["head.weight"]


def test_names_are_translated_in_whole_parts() -> None:
    names = Names((("blocks.#.ls1.gamma", "blocks.#.gamma_1"), ("a", "b")))
    assert names.to_own("blocks.12.gamma_1") == "blocks.12.ls1.gamma"
    assert names.from_own("blocks.3.ls1.gamma.x") == "blocks.3.gamma_1.x"
    assert names.to_own("blocks.1.gamma_12") == "blocks.1.gamma_12"
    assert names.from_own("ab") == "ab"
    assert names.from_own("a.c") == "b.c"
