"""A transformer block: stochastic depth (T15 of the recipe), feed-forward layers and norms."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bigrun.model.attention import attend_by_group, attend_by_products
from bigrun.model.block import Block, Mlp, RmsNorm, SwiGlu, build_norm, keep_some, kept_crops
from bigrun.model.groups import Group
from bigrun.model.initialise import initialise
from bigrun.model.rope import RopeTable
from bigrun.model.vit import VisionTransformer
from bigrun.sections import Model

TINY = Model(width=32, heads=2, ffn_hidden=64, layerscale=0.5, drop_path_fraction=0.5)
NOWHERE: list[RopeTable] = [(torch.zeros(1, 16), torch.ones(1, 16))]


def block_of(drop_fraction: float, **options: object) -> Block:
    torch.manual_seed(0)
    block = Block(attrs.evolve(TINY, drop_path_fraction=drop_fraction, **options))
    initialise(block)
    return block


# -- stochastic depth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crops", "fraction", "draw", "kept"),
    [
        (32, 0.4, 0.0, 19), (32, 0.4, 0.79, 19), (32, 0.4, 0.81, 20), (8, 0.5, 0.999, 4), (1, 0.9, 0.0, 1),
        (10, 0.0, 0.999, 10),
    ],
)  # fmt: skip
def test_t15_how_many_crops_keep_a_branch(crops: int, fraction: float, draw: float, kept: int) -> None:
    assert kept_crops(crops, fraction, draw) == kept


@given(crops=st.integers(1, 200), fraction=st.floats(0, 0.99))
def test_t15_the_share_that_is_left_out_does_not_follow_the_number_of_crops(crops: int, fraction: float) -> None:
    """In the mean over the draw, here over 1000 of equal distance."""
    mean = sum(kept_crops(crops, fraction, (number + 0.5) / 1000) for number in range(1000)) / 1000
    assert mean == pytest.approx(max(crops * (1 - fraction), 1), abs=1e-3)


def test_t15_a_pass_draws_once_for_all_blocks_and_both_sizes() -> None:
    network = VisionTransformer(attrs.evolve(TINY, depth=2, patch_size_px=8, drop_path_fraction=0.3)).train()
    seen: list[Any] = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[3]))
    crops = [torch.randn(4, 3, 16, 16), torch.randn(8, 3, 8, 8)]
    passes = set()
    for seed in range(20):
        torch.manual_seed(seed)
        network.forward_list(crops)
        assert seen[0] == seen[1]
        passes.add(tuple(seen[0]))
        seen.clear()
    assert passes == {(2, 5), (3, 5), (3, 6)}
    network.eval().forward_list(crops)
    assert seen == [None, None]


@settings(deadline=None, max_examples=30)
@given(
    sides=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=3),
    fraction=st.floats(0.01, 0.95),
    seed=st.integers(0, 2**31),
)
def test_t15_a_branch_is_computed_for_kept_crops_only_and_weighs_more(
    sides: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    groups = [Group(*pair) for pair in sides]
    seen: list[list[Group]] = []

    def branch(kept: Tensor, kept_groups: list[Group]) -> Tensor:
        assert len(kept) == sum(group.rows for group in kept_groups)
        seen.append(list(kept_groups))
        return torch.ones_like(kept)

    torch.manual_seed(seed)
    counts = [kept_crops(group.crops, fraction, 0.5) for group in groups]
    out = keep_some(branch, torch.zeros(sum(group.rows for group in groups), 1), groups, counts)
    assert seen == [[Group(count, group.tokens) for count, group in zip(counts, groups, strict=True)]]
    for part, group, kept in zip(out.split([group.rows for group in groups]), groups, seen[0], strict=True):
        of_crops = part.view(group.crops, group.tokens)
        assert torch.equal(of_crops, of_crops[:, :1].expand_as(of_crops))  # a crop is kept or left out as a whole
        weight = torch.tensor(group.crops / kept.crops)
        assert (
            of_crops[:, 0].sort().values.tolist() == [0.0] * (group.crops - kept.crops) + [weight.item()] * kept.crops
        )


def test_t15_the_expectation_is_the_whole_branch() -> None:
    block = block_of(0.5)
    x, groups = torch.randn(6, 32), [Group(6, 1)]
    with torch.no_grad():

        def branch(kept: Tensor, kept_groups: list[Group]) -> Tensor:
            return block.ls1(block.attn(block.norm1(kept), kept_groups, NOWHERE))

        drawn = torch.stack([keep_some(branch, x, groups, [3]) for _ in range(400)])
        deviation = drawn.mean(0) - (x + branch(x, groups))
    assert (deviation.abs() <= 5 * drawn.std(0) / math.sqrt(400) + 1e-6).all()


def test_t15_a_rate_of_zero_is_eval() -> None:
    crops = torch.randn(6, 3, 16, 16)

    def network(fraction: float) -> VisionTransformer:
        torch.manual_seed(0)
        same = {"patch_size_px": 8, "depth": 1, "rope_rescale_factor": None, "untie_global_and_local_cls_norm": False}
        return VisionTransformer(attrs.evolve(TINY, drop_path_fraction=fraction, **same))

    dropping, whole = network(0.5), network(0.0)
    exact = dropping.eval()(crops).cls
    assert torch.equal(whole.train()(crops).cls, exact)
    assert not torch.allclose(dropping.train()(crops).cls, exact)


def test_t15_each_branch_and_each_size_of_crops_has_a_permutation_of_its_own() -> None:
    """70 sets of 4 crops of 8: two that are drawn apart are equal in 1 of 70 calls."""
    block = block_of(0.5)
    nn.init.zeros_(block.ls1.gamma)  # the second branch sees what the first saw
    x, groups, tables = torch.randn(16, 32), [Group(8, 1), Group(8, 1)], NOWHERE * 2
    kept: list[frozenset[int]] = []

    def look(module: nn.Module, arguments: tuple[Tensor]) -> None:
        rows = [int((x == row).all(1).nonzero()) for row in arguments[0]]
        kept.extend([frozenset(rows[:4]), frozenset(row - 8 for row in rows[4:])])

    for norm in (block.norm1, block.norm2):
        norm.register_forward_pre_hook(look)
    with torch.no_grad():
        for _ in range(100):
            block(x, groups, tables, [4, 4])
    calls = [kept[i : i + 4] for i in range(0, len(kept), 4)]
    assert len(calls) == 100
    for first in range(4):
        for second in range(first):
            assert sum(call[first] == call[second] for call in calls) < 12


# -- layers -----------------------------------------------------------------------------------------------------------


def test_feed_forward_layers_are_their_formulas() -> None:
    x = torch.randn(5, 32)
    mlp, swiglu = Mlp(TINY), SwiGlu(attrs.evolve(TINY, ffn_bias=False))
    for layer in (mlp, swiglu):
        initialise(layer)
    inner = mlp.fc1(x)
    assert torch.allclose(mlp(x), mlp.fc2(inner * (1 + torch.erf(inner / math.sqrt(2))) / 2), atol=1e-6)
    gate = x @ swiglu.w1.weight.T
    assert torch.allclose(swiglu(x), (gate * gate.sigmoid() * (x @ swiglu.w2.weight.T)) @ swiglu.w3.weight.T, atol=1e-6)


@pytest.mark.parametrize(("norm", "eps"), [("layernorm", 1e-6), ("layernormbf16", 1e-5)])
def test_layer_norms_differ_by_their_eps(norm: str, eps: float) -> None:
    layer = build_norm(attrs.evolve(TINY, norm=norm))
    initialise(layer)
    x = 1e-3 * torch.randn(4, 32)
    assert torch.allclose(layer(x), F.layer_norm(x, (32,), eps=eps))
    centred = x - x.mean(-1, keepdim=True)
    assert torch.allclose(layer(x), centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt(), atol=1e-5)


def test_rms_norm_is_scale_free_and_computed_in_fp32() -> None:
    norm = RmsNorm(64)
    initialise(norm)
    x = torch.randn(5, 64)
    assert torch.allclose(norm(x).square().mean(-1), torch.ones(5), atol=1e-4)
    assert torch.allclose(norm(3 * x), norm(x), atol=1e-4)
    assert norm(x.bfloat16() * 1e4).isfinite().all()


@settings(deadline=None, max_examples=20)
@given(crops=st.integers(1, 3), tokens=st.integers(1, 40), seed=st.integers(0, 1000))
def test_attention_by_products_is_scaled_dot_product_attention(crops: int, tokens: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(crops, 2, tokens, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    torch.testing.assert_close(attend_by_products(q, k, v), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("tokens", [41, 201])
def test_in_bf16_it_is_nearly_as_exact_as_the_fused_kernel(tokens: int) -> None:
    """Errors of output and gradients against float64, on the type and the sizes for which a CPU takes it.

    Measured: 0.2 to 0.5 % of the norm where the fused kernel, which keeps its softmax in fp32, has 0.2 %.
    """
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(2, 3, tokens, 64, generator=generator, dtype=torch.float64) for _ in range(4)]
    half = [t.bfloat16() for t in exact]

    def run(kernel: Any, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        q, k, v = (t.clone().requires_grad_() for t in tensors[:3])
        out = kernel(q, k, v)
        return [out, *torch.autograd.grad(out, (q, k, v), tensors[3])]

    wanted = run(F.scaled_dot_product_attention, [t.double() for t in half])
    ours = run(attend_by_products, half)
    with torch.autocast("cpu", torch.bfloat16):
        chosen = attend_by_group([(half[0], half[1], half[2])])[0]
    assert torch.equal(chosen, ours[0])
    for name, w, o in zip(("out", "q", "k", "v"), wanted, ours, strict=True):
        assert o.dtype == torch.bfloat16
        assert (o - w).norm() < 0.007 * w.norm(), name


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("recording", [True, False], ids=["student", "teacher"])
@pytest.mark.parametrize("sizes", [(32,), (32, 16)], ids=["one-size", "two-sizes"])
def test_a_block_is_one_graph(sizes: tuple[int, ...], recording: bool) -> None:
    """torch.compile raises at a graph break."""
    model = attrs.evolve(TINY, depth=1, patch_size_px=8, drop_path_fraction=0.0)
    torch.manual_seed(0)
    network = VisionTransformer(model).train(recording)
    crops = [torch.randn(2, 3, size, size) for size in sizes]
    with torch.set_grad_enabled(recording):
        torch.manual_seed(1)
        expected = network.forward_list(crops)
        torch._dynamo.reset()
        network.blocks[0].compile(backend="eager", fullgraph=True)
        torch.manual_seed(1)
        for found, wanted in zip(network.forward_list(crops), expected, strict=True):
            torch.testing.assert_close(found.patches, wanted.patches)
