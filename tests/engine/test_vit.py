"""The vision transformer (T14 of the recipe); its sizes are in test_architectures.py."""

from __future__ import annotations

import math

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bigrun.model.vit import Features, VisionTransformer
from bigrun.sections import Model
from bigrun.values import Problem, structure

TINY = Model(
    width=32, depth=3, heads=2, ffn_hidden=64, patch_size_px=8, storage_tokens=2, layerscale=0.5,
    drop_path_fraction=0.0, rope_rescale_factor=None,
)  # fmt: skip


def build(model: Model = TINY, *, training: bool = False) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(model).train(training)


def images(count: int = 2, height: int = 32, width: int = 24, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def as_tuple(features: Features) -> tuple[Tensor, ...]:
    return features.cls, features.storage, features.patches, features.prenorm


def assert_equal(ours: Features, theirs: Features, atol: float = 0.0) -> None:
    assert ours.grid == theirs.grid
    for a, b in zip(as_tuple(ours), as_tuple(theirs), strict=True):
        assert torch.allclose(a, b, atol=atol, rtol=0)


# -- options ----------------------------------------------------------------------------------------------------------


OPTIONS = {
    "ffn": st.sampled_from(["mlp", "swiglu"]),
    "norm": st.sampled_from(["layernorm", "layernormbf16", "rmsnorm"]),
    "layerscale": st.sampled_from([None, 0.1]),
    "storage_tokens": st.integers(0, 3),
    "in_channels": st.sampled_from([1, 3]),
    "rope_coordinates": st.sampled_from(["separate", "max", "min"]),
    "rope_shift": st.sampled_from([None, 0.5]),
    "rope_jitter_factor": st.sampled_from([None, 1.5]),
    "rope_rescale_factor": st.sampled_from([None, 2.0]),
    "rope_dtype": st.sampled_from(["fp32", "bf16"]),
    "drop_path_fraction": st.sampled_from([0.0, 0.5]),
} | dict.fromkeys(
    [
        "rope_per_block", "qkv_bias", "mask_k_bias", "proj_bias", "ffn_bias", "untie_cls_and_patch_norms",
        "untie_global_and_local_cls_norm",
    ],
    st.booleans(),
)  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(options=st.fixed_dictionaries(OPTIONS), by_range=st.booleans())
def test_every_combination_of_options_trains_every_parameter(options: dict[str, object], by_range: bool) -> None:
    periods = {"rope_base": None, "rope_period_range": (0.5, 50.0)} if by_range else {}
    network = build(attrs.evolve(TINY, **options, **periods), training=True)
    stacks = [torch.randn(n, network.patch_embed.proj.in_channels, size, size) for n, size in ((2, 32), (4, 16))]
    features = network.forward_list(stacks)
    sum(f.cls.sum() + f.patches.square().sum() + f.storage.sum() for f in features).backward()  # type: ignore[union-attr]
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"width": 100, "heads": 6}, "model.heads"),
        ({"width": 36, "heads": 3, "rope_base": False, "rope_period_range": [1, 9]}, None),
        ({"rope_base": False}, "model.rope_period_range"),
        ({"rope_period_range": [1.0, 9.0]}, "model.rope_period_range"),
        ({"rope_period_range": [9.0, 1.0], "rope_base": False}, "model.rope_period_range"),
        ({"qkv_bias": False, "mask_k_bias": True}, "model.mask_k_bias"),
        ({"layerscale": 0.0}, "model.layerscale"),
        ({"drop_path_fraction": 1.0}, "model.drop_path_fraction"),
        ({"rope_rescale_factor": 1.0}, "model.rope_rescale_factor"),
    ],
)
def test_options_that_make_no_network_are_refused(options: dict[str, object], where: str | None) -> None:
    problems: list[Problem] = []
    structure(options, Model, "model", problems)
    assert [path for path, _ in problems] == ([] if where is None else [where])


# -- forward ----------------------------------------------------------------------------------------------------------


def test_shapes_and_order_of_tokens() -> None:
    network = build()
    features = network(images(3))
    assert features.grid == (4, 3)
    assert features.cls.shape == (3, 32)
    assert features.storage.shape == (3, 2, 32)
    assert features.patches.shape == (3, 12, 32)
    assert features.prenorm.shape == (3, 15, 32)
    assert torch.equal(network.norm(features.prenorm)[:, 3:], features.patches)
    maps = features.maps()
    assert maps.shape == (3, 32, 4, 3)
    assert torch.equal(maps[:, :, 1, 2], features.patches[:, 5])


@pytest.mark.parametrize("shape", [(2, 3, 30, 32), (2, 1, 32, 32), (3, 32, 32)])
def test_crops_that_do_not_divide_into_patches_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected crops \(n, 3, H, W\) with sides that are multiples of 8"):
        build()(torch.zeros(shape))


@settings(deadline=None, max_examples=20)
@given(
    sides=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3),
    training=st.booleans(),
    masked=st.booleans(),
    untied=st.booleans(),
)
def test_t14_a_list_of_sizes_gives_what_separate_calls_give(
    sides: list[tuple[int, int, int]], training: bool, masked: bool, untied: bool
) -> None:
    model = attrs.evolve(TINY, untie_cls_and_patch_norms=untied, untie_global_and_local_cls_norm=False)
    network = build(model, training=training)
    stacks = [images(n, 8 * rows, 8 * columns, seed=i) for i, (n, rows, columns) in enumerate(sides)]
    n, rows, columns = sides[0]
    mask = torch.rand(n, rows * columns, generator=torch.Generator().manual_seed(2)) < 0.4 if masked else None
    masks = [mask, *[None] * (len(sides) - 1)]
    together = network.forward_list(stacks, masks)
    for features, stack, of_stack in zip(together, stacks, masks, strict=True):
        assert_equal(features, network(stack, of_stack), atol=1e-5)


def test_t14_gradients_of_a_list_are_those_of_separate_calls() -> None:
    network = build(attrs.evolve(TINY, untie_global_and_local_cls_norm=False), training=True)
    stacks = [images(2, 32, 24), images(3, 16, 24, seed=2), images(2, 8, 40, seed=3)]

    def gradients(features: list[Features]) -> list[Tensor]:
        loss = sum(f.cls.sum() + f.patches.square().sum() for f in features)
        return list(torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True))  # type: ignore[arg-type]

    together = gradients(network.forward_list(stacks))
    separate = gradients([network(stack) for stack in stacks])
    for ours, theirs in zip(together, separate, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5 * theirs.abs().max().item() + 1e-7, rtol=1e-4)


def test_images_do_not_see_each_other() -> None:
    network = build()
    both = images(2)
    changed = both.clone()
    changed[1] += 1
    assert torch.allclose(network(both).patches[0], network(changed).patches[0], atol=1e-6)
    assert not torch.allclose(network(both).patches[1], network(changed).patches[1], atol=1e-2)


def test_t14_pixels_under_the_mask_are_not_seen() -> None:
    network = build()
    everything = torch.ones(2, 12, dtype=torch.bool)
    assert_equal(network(images(), everything), network(images(seed=9), everything))
    stacks, others = [images(), images(2, 16, 16)], [images(seed=9), images(2, 16, 16)]
    for ours, theirs in zip(
        network.forward_list(stacks, [everything, None]), network.forward_list(others, [everything, None]), strict=True
    ):
        assert_equal(ours, theirs)
    some = torch.zeros(2, 12, dtype=torch.bool)
    some[:, 0] = True
    changed = images()
    changed[:, :, :8, :8] += 1  # the first patch
    assert torch.equal(network(images(), some).patches, network(changed, some).patches)
    assert not torch.equal(network(images()).patches, network(changed).patches)


def test_t14_the_mask_token_has_a_gradient_of_zero_without_a_mask_and_one_with_it() -> None:
    network = build(training=True)
    sum(f.cls.sum() for f in network.forward_list([images(), images(2, 16, 16)])).backward()  # type: ignore[union-attr]
    assert network.mask_token.grad is not None
    assert not network.mask_token.grad.any()
    mask = torch.arange(12).expand(2, -1) < 3
    network(images(), mask).patches.square().sum().backward()
    assert network.mask_token.grad.any()


def test_t14_the_keys_bias_has_no_effect_and_no_gradient() -> None:
    network = build(training=True)
    before = network(images()).patches
    qkv = network.blocks[1].attn.qkv
    with torch.no_grad():
        qkv.bias[32:64] += 5.0
    after = network(images()).patches
    assert torch.equal(before, after)
    after.square().sum().backward()
    assert not qkv.bias.grad[32:64].any()
    assert qkv.bias.grad[:32].any()
    assert qkv.bias.grad[64:].any()


def test_local_crops_have_a_class_norm_of_their_own_in_training_only() -> None:
    network = build(attrs.evolve(TINY, untie_global_and_local_cls_norm=True))
    with torch.no_grad():
        network.local_cls_norm.weight.fill_(2.0)
    stacks = [images(2, 32, 32), images(2, 16, 16)]
    evaluated, trained = network.eval().forward_list(stacks), network.train().forward_list(stacks)
    assert torch.equal(trained[0].cls, evaluated[0].cls)
    assert torch.allclose(trained[1].cls, 2 * evaluated[1].cls, atol=1e-5)
    assert torch.allclose(trained[1].storage, 2 * evaluated[1].storage, atol=1e-5)
    assert torch.equal(trained[1].patches, evaluated[1].patches)


def test_intermediate_features_end_with_the_output() -> None:
    network = build()
    first, last = network.intermediate(images(), 2)
    output = network(images())
    assert torch.equal(last.cls, output.cls)
    assert torch.equal(last.patches, output.patches)
    assert not torch.allclose(first.patches, last.patches)
    swapped = network.intermediate(images(), [2, 1])
    assert torch.equal(swapped[0].patches, last.patches)
    assert torch.equal(swapped[1].patches, first.patches)
    raw = network.intermediate(images(), [2], norm=False)[0]
    assert torch.equal(raw.patches, output.prenorm[:, 3:])
    for layers in (4, 0, [3], []):
        with pytest.raises(ValueError, match="expected blocks from 0 to 2"):
            network.intermediate(images(), layers)


def test_a_replaced_attention_kernel_is_used_for_all_groups_at_once() -> None:
    network = build()
    seen = []

    def kernel(groups: list[tuple[Tensor, Tensor, Tensor]]) -> list[Tensor]:
        seen.append([tuple(q.shape) for q, _, _ in groups])
        return [((q @ k.mT) / math.sqrt(q.shape[-1])).softmax(-1) @ v for q, k, v in groups]

    expected = network.forward_list([images(2, 32, 32), images(3, 16, 16)])
    for block in network.blocks:
        block.attn.kernel = kernel
    got = network.forward_list([images(2, 32, 32), images(3, 16, 16)])
    assert seen == [[(2, 2, 19, 16), (3, 2, 7, 16)]] * 3
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.allclose(ours.patches, theirs.patches, atol=1e-5)


def test_autocast_keeps_the_residual_stream_in_fp32() -> None:
    network = build(attrs.evolve(TINY, drop_path_fraction=0.3), training=True)
    with torch.autocast("cpu", torch.bfloat16):
        features = network.forward_list([images(4, 32, 32), images(4, 16, 16)])
    assert features[0].prenorm.dtype == torch.float32
    assert features[0].prenorm.isfinite().all()


def test_blocks_draw_positions_in_training_and_never_in_eval() -> None:
    for per_block in (True, False):
        network = build(attrs.evolve(TINY, rope_rescale_factor=2.0, rope_per_block=per_block))
        assert_equal(network(images()), network(images()))
        network.train()
        assert not torch.equal(network(images()).patches, network(images()).patches)


# -- names ------------------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_public_weights() -> None:
    names = set(build(attrs.evolve(TINY, untie_cls_and_patch_norms=True)).state_dict())
    assert {n for n in names if not n.startswith("blocks.")} == {
        "cls_token", "storage_tokens", "mask_token", "patch_embed.proj.weight", "patch_embed.proj.bias",
        "rope_embed.periods", "norm.weight", "norm.bias", "cls_norm.weight", "cls_norm.bias",
        "local_cls_norm.weight", "local_cls_norm.bias",
    }  # fmt: skip
    assert {n.removeprefix("blocks.0.") for n in names if n.startswith("blocks.0.")} == {
        "norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.qkv.bias_mask", "attn.proj.weight",
        "attn.proj.bias", "ls1.gamma", "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias",
        "mlp.fc2.weight", "mlp.fc2.bias", "ls2.gamma",
    }  # fmt: skip
