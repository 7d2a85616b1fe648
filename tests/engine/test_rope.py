"""Rotary positions (T13 of the recipe)."""

from __future__ import annotations

import copy
import math

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bigrun.model.groups import Group, rotated_qkv
from bigrun.model.initialise import initialise
from bigrun.model.rope import Rope, RopeTable, patch_coordinates, rope_table, rotate
from bigrun.sections import Model
from bigrun.values import Problem, structure

D64 = Model(width=128, heads=2, rope_rescale_factor=None)
LAST_PERIOD = 100 ** (15 / 16)
BY_RANGE = {"rope_base": None, "rope_period_range": (0.5, 90.0)}

grids = st.tuples(st.integers(1, 12), st.integers(1, 12))
seeds = st.integers(0, 2**31)


def rope(model: Model = D64, *, training: bool = False) -> Rope:
    module = Rope(model)
    initialise(module)
    return module.train(training)


def table(module: Rope, grid: tuple[int, int], prefix: int = 0) -> RopeTable:
    ((only,),) = module([grid], prefix, 1)
    return only


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- periods and coordinates ------------------------------------------------------------------------------------------


def test_periods_by_base() -> None:
    periods = rope().periods
    assert periods.shape == (16,)
    assert periods[0] == 1.0
    assert periods[1].item() == pytest.approx(1.3335, abs=1e-4)
    assert periods[-1].item() == pytest.approx(LAST_PERIOD, rel=1e-6)


def test_periods_by_range() -> None:
    periods = rope(attrs.evolve(D64, **BY_RANGE)).periods
    assert periods[0] == 0.5
    assert periods[-1].item() == pytest.approx(90.0, rel=1e-5)
    ratios = periods[1:] / periods[:-1]
    assert torch.allclose(ratios, ratios[:1].expand_as(ratios), rtol=1e-5)


@pytest.mark.parametrize(
    ("divide_by", "rows", "columns"),
    [("separate", 1.0, 1.0), ("max", 0.5, 1.0), ("min", 1.0, 2.0)],
)
def test_coordinates_reach_the_side_divided_by(divide_by: str, rows: float, columns: float) -> None:
    grid = (3, 6)
    u = patch_coordinates(grid, divide_by).view(*grid, 2)
    assert u.dtype == torch.float32
    assert u[0, 0].tolist() == pytest.approx([-1 + rows / 3, -1 + columns / 6])
    assert (u[-1, 0, 0] - u[0, 0, 0]).item() == pytest.approx(2 * rows * 2 / 3)
    assert (u[0, -1, 1] - u[0, 0, 1]).item() == pytest.approx(2 * columns * 5 / 6)
    assert torch.equal(u[:, 0, 0], u[:, 3, 0])  # the first number is the row's
    assert torch.equal(u[0, :, 1], u[2, :, 1])


@settings(deadline=None)
@given(grid=grids)
def test_t13_a_half_turn_of_the_grid_negates_coordinates(grid: tuple[int, int]) -> None:
    u = patch_coordinates(grid, "separate").view(*grid, 2)
    assert torch.allclose(u + u.flip(0, 1), torch.zeros(()), atol=1e-6)
    assert u.abs().max() < 1


# -- rotation ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(
    grid=grids.filter(lambda grid: grid != (1, 1)),
    prefix=st.integers(0, 5),
    by_range=st.booleans(),
    seed=seeds,
    training=st.booleans(),
)
def test_t13_rotation_keeps_lengths_and_leaves_other_tokens_alone(
    grid: tuple[int, int], prefix: int, by_range: bool, seed: int, training: bool
) -> None:
    options = BY_RANGE if by_range else {}
    torch.manual_seed(seed)
    augmented = attrs.evolve(D64, rope_shift=0.5, rope_jitter_factor=1.5, rope_rescale_factor=2.0, **options)
    sin, cos = table(rope(augmented, training=training), grid, prefix)
    count = prefix + grid[0] * grid[1]
    assert sin.shape == cos.shape == (count, 64)
    assert sin.dtype == cos.dtype == torch.float32
    assert torch.allclose(sin**2 + cos**2, torch.ones(()), atol=1e-6)
    tokens = random(2, 2, count, 64, seed=seed)
    rotated = rotate(tokens, (sin, cos))
    assert torch.allclose(rotated.norm(dim=-1), tokens.norm(dim=-1), rtol=1e-5)
    assert torch.equal(rotated[:, :, :prefix], tokens[:, :, :prefix])
    assert not torch.allclose(rotated[:, :, prefix:], tokens[:, :, prefix:])


@settings(deadline=None)
@given(
    shift=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
    places=st.tuples(*[st.floats(-1, 1)] * 4),
)
def test_t13_attention_sees_only_the_difference_of_places(
    shift: tuple[float, float], places: tuple[float, float, float, float]
) -> None:
    periods = rope().periods
    q, k = random(2, 1, 1, 1, 64).unbind(0)
    a, b = torch.tensor(places).view(2, 1, 2)

    def product(offset: Tensor) -> Tensor:
        return (rotate(q, rope_table(a + offset, periods)) * rotate(k, rope_table(b + offset, periods))).sum()

    assert torch.allclose(product(torch.tensor(shift)), product(torch.zeros(2)), atol=2e-3)


def test_dimension_i_pairs_with_i_plus_half() -> None:
    sin, cos = table(rope(), (2, 2))
    tokens = torch.zeros(1, 1, 4, 64)
    tokens[..., 3] = 1.0
    rotated = rotate(tokens, (sin, cos))[0, 0]
    assert torch.allclose(rotated[:, 3], cos[:, 3])
    assert torch.allclose(rotated[:, 35], sin[:, 35])
    assert rotated.count_nonzero(dim=-1).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_queries_and_keys_are_rotated_and_values_are_not(dtype: torch.dtype) -> None:
    """Against the formula, group by group, with the gradient that autograd finds for it."""
    heads, groups = 2, [Group(3, 8), Group(2, 5)]
    tables = rope(attrs.evolve(D64, width=32))([(2, 3), (1, 3)], 2, 1)[0]
    if dtype == torch.float64:
        tables = [(sin.double(), cos.double()) for sin, cos in tables]
    projected = random(3 * 8 + 2 * 5, 96).to(dtype).requires_grad_()

    def turned(t: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
        wide = t.to(sin.dtype)
        first, second = wide.chunk(2, dim=-1)
        return (wide * cos + torch.cat([-second, first], dim=-1) * sin).to(t.dtype)

    expected = []
    for part, group, (sin, cos) in zip(projected.split([24, 10]), groups, tables, strict=True):
        q, k, v = part.view(group.crops, group.tokens, 3, heads, 16).permute(2, 0, 3, 1, 4)
        expected += [turned(q, sin, cos), turned(k, sin, cos), v]
    got = [tensor for qkv in rotated_qkv(projected, heads, groups, tables) for tensor in qkv]
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float64: 1e-14}[dtype]
    gradients = [random(*t.shape, seed=i).to(dtype) for i, t in enumerate(expected)]
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == dtype
        assert torch.allclose(ours, theirs, atol=tolerance)
    ours, theirs = (torch.autograd.grad(tensors, projected, gradients)[0] for tensors in (got, expected))
    assert torch.allclose(ours, theirs, atol=tolerance)


# -- augmentation -----------------------------------------------------------------------------------------------------


def places(options: dict[str, float], *, draws: int = 1, training: bool = True) -> Tensor:
    """(draws, 8, 8, 2) row and column as the longest period sees them: of small angles, sin is nearly linear."""
    of_blocks = rope(attrs.evolve(D64, **options), training=training)([(8, 8)], 0, draws)
    sin = torch.stack([sin for ((sin, _),) in of_blocks])
    return sin[..., [15, 31]].view(draws, 8, 8, 2) * LAST_PERIOD / (2 * math.pi)


STILL = places({}, training=False)[0]


def test_t13_a_rescale_draw_stays_in_range_and_differs_between_calls() -> None:
    torch.manual_seed(0)
    scales = places({"rope_rescale_factor": 2.0}, draws=300)[:, 0, 0] / STILL[0, 0]
    assert 0.5 - 1e-3 < scales.min() < 0.53
    assert 1.9 < scales.max() < 2.0 + 1e-2
    assert abs(scales.log().mean()) < 5 * 2 * math.log(2) / math.sqrt(12 * 300)
    assert torch.allclose(scales[:, 0], scales[:, 1], rtol=1e-3)  # one factor for both axes
    module = rope(attrs.evolve(D64, rope_rescale_factor=2.0), training=True)
    assert not torch.equal(table(module, (4, 4))[0], table(module, (4, 4))[0])


@pytest.mark.parametrize(
    "options", [{"rope_rescale_factor": 2.0}, {"rope_shift": 0.5}, {"rope_jitter_factor": 2.0}], ids=str
)
def test_t13_there_is_no_augmentation_in_eval(options: dict[str, float]) -> None:
    state = torch.get_rng_state()
    assert torch.equal(places(options, training=False)[0], STILL)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.allclose(places(options)[0], STILL)


def test_a_shift_moves_each_axis_by_up_to_s() -> None:
    torch.manual_seed(0)
    moved = (places({"rope_shift": 0.5}, draws=100) - STILL).mean((1, 2))
    assert 0.4 < moved.abs().max() <= 0.5 + 1e-3
    assert abs(torch.corrcoef(moved.T)[0, 1]) < 0.4


def test_a_jitter_scales_each_axis_by_up_to_j() -> None:
    torch.manual_seed(0)
    scales = places({"rope_jitter_factor": 2.0}, draws=100)[:, 0, 0] / STILL[0, 0]
    assert 0.49 < scales.min() < 0.6
    assert 1.7 < scales.max() < 2.01
    assert abs(torch.corrcoef(scales.T)[0, 1]) < 0.4


def test_a_shift_comes_before_a_scale() -> None:
    """The middle of the grid is moved by shift times scale, up to 0.5 * 4."""
    torch.manual_seed(0)
    middles = places({"rope_shift": 0.5, "rope_rescale_factor": 4.0}, draws=200).mean((1, 2)).abs()
    assert 1.0 < middles.max() < 2.0


def test_each_block_and_each_size_of_crops_has_a_draw_of_its_own() -> None:
    module = rope(attrs.evolve(D64, rope_rescale_factor=2.0), training=True)
    tables = module([(4, 4), (4, 4)], 1, 3)
    sines = torch.stack([sin for of_block in tables for sin, _ in of_block])
    assert len(sines) == 6
    assert len(sines.unique(dim=0)) == 6


def test_blocks_may_share_a_draw() -> None:
    module = rope(attrs.evolve(D64, rope_rescale_factor=2.0, rope_per_block=False), training=True)
    first, second, third = module([(4, 4), (4, 4)], 1, 3)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(first, third, strict=True))
    assert not torch.equal(first[0][0], first[1][0])  # sizes of crops do not
    assert not torch.equal(first[0][0], module([(4, 4)], 1, 1)[0][0][0])  # nor do calls


def test_rope_per_block_is_refused_where_nothing_is_drawn() -> None:
    problems: list[Problem] = []
    structure({"rope_rescale_factor": False, "rope_per_block": False}, Model, "model", problems)
    assert [path for path, _ in problems] == ["model.rope_per_block"]


# -- precision --------------------------------------------------------------------------------------------------------


def test_tables_computed_in_bf16_are_as_far_off_as_the_published_ones() -> None:
    exact = table(rope(), (14, 14))
    rounded = table(rope(attrs.evolve(D64, rope_dtype="bf16")), (14, 14))
    assert all(part.dtype == torch.bfloat16 for part in rounded)
    errors = [(ours - theirs).abs().max().item() for ours, theirs in zip(rounded, exact, strict=True)]
    assert errors == pytest.approx([0.0195, 0.0314], abs=5e-4)
    tokens = random(1, 1, 196, 64)
    assert rotate(tokens, rounded).dtype == torch.float32
    assert torch.allclose(rotate(tokens, rounded), rotate(tokens, exact), atol=0.25)


def test_periods_stay_exact_when_a_network_is_cast() -> None:
    module = rope()
    exact = module.periods.clone()
    cast = copy.deepcopy(module).bfloat16()
    assert cast.periods.dtype == torch.float32
    assert torch.equal(cast.periods, exact)
    assert module.double().periods.dtype == torch.float32
    assert module.to("meta").to_empty(device="cpu").periods.dtype == torch.float32
    assert set(cast.state_dict()) == {"periods"}
