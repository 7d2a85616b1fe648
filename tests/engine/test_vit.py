"""The vision transformer (T14-T16 of the recipe)."""

from __future__ import annotations

import itertools
import math

import attrs
import pytest
import torch
from torch import Tensor, nn

from bigrun.config import Config, build_config, read_preset, shipped_presets
from bigrun.entry_points import load_classes
from bigrun.model.attention import Group
from bigrun.model.block import Block, RmsNorm, keep_some, kept_crops
from bigrun.model.initialise import initialise
from bigrun.model.vit import Features, VisionTransformer
from bigrun.sections import Model

TINY = Model(
    width=32, depth=3, heads=2, ffn_hidden=64, patch_size_px=8, storage_tokens=2, layerscale=0.5,
    drop_path_fraction=0.0, rope_rescale_factor=None,
)  # fmt: skip


def build(model: Model = TINY, *, training: bool = False) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(model).train(training)


def images(count: int = 2, height: int = 32, width: int = 24) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def preset(name: str) -> Config:
    document = read_preset(name)
    classes = load_classes(document.tables["plugins"], [])
    return build_config(document, {n: getattr(cls, "Config", None) for n, cls in classes.items()}, [])


# -- sizes ------------------------------------------------------------------------------------------------------------


def formula(m: Model) -> int:
    """Parameters of the backbone, counted on paper (recipe 1.10)."""
    d, h, p = m.width, m.ffn_hidden, m.patch_size_px
    norm = d if m.norm == "rmsnorm" else 2 * d
    ffn = 3 * d * h + m.ffn_bias * (2 * h + d) if m.ffn == "swiglu" else 2 * d * h + m.ffn_bias * (h + d)
    attention = 3 * d * d + m.qkv_bias * 3 * d + d * d + m.proj_bias * d
    block = attention + ffn + 2 * norm + (0 if m.layerscale is None else 2 * d)
    norms = 1 + m.untie_cls_and_patch_norms + m.untie_global_and_local_cls_norm
    return d * m.in_channels * p * p + d + d + m.storage_tokens * d + d + m.depth * block + norms * norm


@pytest.mark.parametrize(
    ("name", "count"),
    [("vit_tiny", None), ("vit_small", 21_601_152), ("vit_large", 303_154_176), ("vit_giant", 1_134_659_072)],
)
def test_presets_have_the_published_number_of_parameters(name: str, count: int | None) -> None:
    model = preset(name).model
    with torch.device("meta"):
        built = sum(p.numel() for p in VisionTransformer(model).parameters())
    assert built == formula(model)
    assert count in (None, built)


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"width": 384, "heads": 6, "ffn": "swiglu", "ffn_hidden": 1536}, 28_697_472),
        ({"width": 768, "heads": 12, "ffn_hidden": 3072}, 85_669_632),
        ({"width": 1408, "depth": 40, "heads": 16, "ffn_hidden": 6144}, 1_011_213_696),
        (
            {"width": 1408, "depth": 40, "heads": 16, "ffn_hidden": 5632, "patch_size_px": 14},
            953_268_096,
        ),
        (
            {
                "width": 4096, "depth": 40, "heads": 32, "ffn": "swiglu", "ffn_hidden": 8192, "qkv_bias": False,
                "untie_global_and_local_cls_norm": True,
            },
            6_716_043_264,
        ),
    ],
)  # fmt: skip
def test_other_published_architectures_can_be_written(changes: dict[str, object], count: int) -> None:
    model = attrs.evolve(Model(untie_global_and_local_cls_norm=False), **changes)
    with torch.device("meta"):
        assert sum(p.numel() for p in VisionTransformer(model).parameters()) == count


@pytest.mark.parametrize(
    "changes",
    [
        {"ffn": "swiglu", "norm": "rmsnorm", "layerscale": None},
        {"qkv_bias": False, "proj_bias": False, "ffn_bias": False, "storage_tokens": 0, "norm": "layernorm"},
        {"untie_cls_and_patch_norms": True, "untie_global_and_local_cls_norm": True, "in_channels": 1},
        {"mask_k_bias": False, "rope_base": None, "rope_period_range": (0.5, 50.0), "rope_coordinates": "max"},
    ],
)
def test_every_option_runs_and_is_counted(changes: dict[str, object]) -> None:
    model = attrs.evolve(TINY, **changes)
    network = build(model, training=True)
    assert sum(p.numel() for p in network.parameters()) == formula(model)
    big, small = torch.randn(2, model.in_channels, 32, 32), torch.randn(4, model.in_channels, 16, 16)
    features = network.forward_list([big, small])
    sum(f.cls.sum() + f.patches.square().sum() + f.storage.sum() for f in features).backward()  # type: ignore[union-attr]
    for name, parameter in network.named_parameters():
        used = not (model.untie_cls_and_patch_norms is False and name.startswith("cls_norm"))
        assert (parameter.grad is not None and parameter.grad.isfinite().all()) == used, name


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


def as_tuple(features: Features) -> tuple[Tensor, ...]:
    return features.cls, features.storage, features.patches, features.prenorm


@pytest.mark.parametrize("training", [False, True])
def test_a_list_of_sizes_gives_what_separate_calls_give(training: bool) -> None:
    network = build(attrs.evolve(TINY, untie_global_and_local_cls_norm=False), training=training)
    stacks = [images(2, 32, 32), images(5, 16, 24)]
    mask = torch.rand(2, 16, generator=torch.Generator().manual_seed(2)) < 0.4
    together = network.forward_list(stacks, [mask, None])
    for features, alone in zip(together, [network(stacks[0], mask), network(stacks[1])], strict=True):
        for ours, theirs in zip(as_tuple(features), as_tuple(alone), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)


def test_images_do_not_see_each_other() -> None:
    network = build()
    both = images(2)
    changed = both.clone()
    changed[1] += 1
    assert torch.allclose(network(both).patches[0], network(changed).patches[0], atol=1e-6)
    assert not torch.allclose(network(both).patches[1], network(changed).patches[1], atol=1e-2)


def test_pixels_under_the_mask_are_not_seen() -> None:
    network = build()
    everything = torch.ones(2, 12, dtype=torch.bool)
    a, b = network(images(), everything), network(images() + 1, everything)
    for ours, theirs in zip(as_tuple(a), as_tuple(b), strict=True):
        assert torch.equal(ours, theirs)
    some = torch.zeros(2, 12, dtype=torch.bool)
    some[:, 0] = True
    changed = images()
    changed[:, :, :8, :8] += 1  # the first patch
    assert torch.equal(network(images(), some).patches, network(changed, some).patches)
    assert not torch.equal(network(images()).patches, network(changed).patches)


def test_every_parameter_has_a_gradient_without_a_mask() -> None:
    network = build(training=True)
    sum(f.cls.sum() for f in network.forward_list([images(), images(2, 16, 16)])).backward()  # type: ignore[union-attr]
    assert network.mask_token.grad is not None
    assert not network.mask_token.grad.any()


def test_the_keys_bias_has_no_effect_and_no_gradient() -> None:
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


# -- stochastic depth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("crops", "fraction", "kept"), [(32, 0.4, 19), (8, 0.3, 5), (1, 0.9, 1), (10, 0.0, 10)])
def test_how_many_crops_keep_a_branch(crops: int, fraction: float, kept: int) -> None:
    assert kept_crops(crops, fraction) == kept


def test_a_branch_is_computed_for_kept_crops_only_and_weighs_more() -> None:
    groups = [Group(8, 2), Group(4, 3)]
    x = torch.zeros(28, 1)
    seen: list[int] = []

    def branch(kept: Tensor, kept_groups: object) -> Tensor:
        seen.append(len(kept))
        return torch.ones_like(kept)

    out = keep_some(branch, x, groups, 0.5)
    assert seen == [4 * 2 + 2 * 3]
    large, small = out[:16].view(8, 2), out[16:].view(4, 3)
    assert sorted(large[:, 0].tolist()) == [0.0] * 4 + [2.0] * 4
    assert sorted(small[:, 0].tolist()) == [0.0] * 2 + [2.0] * 2
    assert torch.equal(large[:, 0], large[:, 1])  # a crop is kept or left out as a whole


def test_stochastic_depth_is_right_on_average() -> None:
    torch.manual_seed(0)
    block = Block(attrs.evolve(TINY, drop_path_fraction=0.5))
    initialise(block)
    x, groups = torch.randn(6, 32), [Group(6, 1)]
    tables = [(torch.zeros(1, 16), torch.ones(1, 16))]
    with torch.no_grad():
        exact = block.eval()(x, groups, tables)
        # The attention branch alone: behind it the feed-forward layer is not linear, so its mean is another.
        attention = [
            keep_some(lambda kept, g: block.ls1(block.attn(block.norm1(kept), g, tables)), x, groups, 0.5)
            for _ in range(400)
        ]
        whole = x + block.ls1(block.attn(block.norm1(x), groups, tables))
        deviation = torch.stack(attention).mean(0) - whole
        spread = torch.stack(attention).std(0) / math.sqrt(400)
        assert (deviation.abs() <= 5 * spread + 1e-6).all()
        block.train()
        assert not torch.allclose(block(x, groups, tables), exact)
        block.drop_path_fraction = 0.0
        assert torch.equal(block(x, groups, tables), exact)


# -- initialisation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"ffn": "swiglu", "norm": "rmsnorm"}, {"mask_k_bias": False}])
def test_initialisation_sets_every_number(changes: dict[str, object]) -> None:
    network = build(attrs.evolve(TINY, untie_cls_and_patch_norms=True, **changes))
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        tensor.data.fill_(float("nan"))
    initialise(network)
    for name, tensor in network.state_dict().items():
        assert tensor.isfinite().all(), name


def test_first_values() -> None:
    network = build(attrs.evolve(TINY, width=256, heads=4, ffn_hidden=512))
    assert not network.mask_token.any()
    assert network.cls_token.std().item() == pytest.approx(0.02, rel=0.2)
    bound = 1 / math.sqrt(3 * 8 * 8)
    assert 0.98 * bound < network.patch_embed.proj.weight.abs().max() <= bound
    for module in network.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert not module.bias.any()
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert not module.bias.any()
    for block in network.blocks:
        assert (block.ls1.gamma == 0.5).all()
        assert block.attn.qkv.bias_mask.tolist() == [1.0] * 256 + [0.0] * 256 + [1.0] * 256


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


def test_rms_norm_is_scale_free_and_computed_in_fp32() -> None:
    norm = RmsNorm(64)
    initialise(norm)
    x = torch.randn(5, 64)
    assert torch.allclose(norm(x).square().mean(-1), torch.ones(5), atol=1e-4)
    assert torch.allclose(norm(3 * x), norm(x), atol=1e-4)
    assert norm(x.bfloat16() * 1e4).isfinite().all()


def test_every_shipped_preset_is_tested_for_its_size() -> None:
    assert set(shipped_presets()) == {"quickstart", "vit_tiny", "vit_small", "vit_large", "vit_giant"}
