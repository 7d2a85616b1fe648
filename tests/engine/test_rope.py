"""Rotary positions (T13 of the recipe)."""

from __future__ import annotations

import math

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigrun.model.initialise import initialise
from bigrun.model.rope import Rope, patch_coordinates, rope_table, rotate
from bigrun.sections import Model

D64 = Model(width=128, heads=2, rope_rescale_factor=None)


def rope(model: Model, *, training: bool = False) -> Rope:
    module = Rope(model)
    initialise(module)
    return module.train(training)


def test_periods_by_base() -> None:
    periods = rope(D64).periods
    assert periods.shape == (16,)
    assert periods[0] == 1.0
    assert periods[1].item() == pytest.approx(1.3335, abs=1e-4)
    assert periods[-1].item() == pytest.approx(100 ** (15 / 16), rel=1e-6)


def test_periods_by_range() -> None:
    periods = rope(attrs.evolve(D64, rope_base=None, rope_period_range=(0.5, 90.0))).periods
    assert periods[0] == 0.5
    assert periods[-1].item() == pytest.approx(90.0, rel=1e-5)
    ratios = periods[1:] / periods[:-1]
    assert torch.allclose(ratios, ratios[:1].expand_as(ratios), rtol=1e-5)


@pytest.mark.parametrize(
    ("divide_by", "rows", "columns"),
    [("separate", 1.0, 1.0), ("max", 0.5, 1.0), ("min", 1.0, 2.0)],
)
def test_coordinates_are_symmetric_and_reach_the_side_divided_by(divide_by: str, rows: float, columns: float) -> None:
    grid = (3, 6)
    u = patch_coordinates(grid, divide_by).view(*grid, 2)
    assert u.dtype == torch.float32
    if divide_by == "separate":
        assert torch.allclose(u + u.flip(0, 1), torch.zeros(()), atol=1e-6)  # a half turn of the grid negates them
        assert u[0, 0].tolist() == pytest.approx([-1 + 1 / 3, -1 + 1 / 6])
    assert (u[-1, 0, 0] - u[0, 0, 0]).item() == pytest.approx(2 * rows * 2 / 3)
    assert (u[0, -1, 1] - u[0, 0, 1]).item() == pytest.approx(2 * columns * 5 / 6)
    assert torch.equal(u[:, 0, 0], u[:, 3, 0])  # the first number is the row's
    assert torch.equal(u[0, :, 1], u[2, :, 1])


def test_the_table_is_on_the_unit_circle_and_leaves_other_tokens_alone() -> None:
    sin, cos = rope(D64)((2, 3), prefix=5)
    assert sin.shape == cos.shape == (5 + 6, 64)
    assert sin.dtype == torch.float32
    assert torch.allclose(sin**2 + cos**2, torch.ones(()), atol=1e-6)
    tokens = torch.randn(2, 2, 11, 64)
    rotated = rotate(tokens, (sin, cos))
    assert torch.equal(rotated[:, :, :5], tokens[:, :, :5])
    assert not torch.allclose(rotated[:, :, 5:], tokens[:, :, 5:])


def test_rotation_keeps_lengths_and_dtype() -> None:
    table = rope(D64)((4, 4), prefix=1)
    tokens = torch.randn(3, 2, 17, 64)
    assert torch.allclose(rotate(tokens, table).norm(dim=-1), tokens.norm(dim=-1), rtol=1e-5)
    assert rotate(tokens.bfloat16(), table).dtype == torch.bfloat16


@given(
    shift=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
    places=st.tuples(*[st.floats(-1, 1)] * 4),
)
def test_attention_sees_only_the_difference_of_places(
    shift: tuple[float, float], places: tuple[float, float, float, float]
) -> None:
    periods = rope(D64).periods
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 64, generator=generator).unbind(0)
    a, b = torch.tensor(places).view(2, 1, 2)

    def product(offset: torch.Tensor) -> torch.Tensor:
        return (rotate(q, rope_table(a + offset, periods)) * rotate(k, rope_table(b + offset, periods))).sum()

    assert torch.allclose(product(torch.tensor(shift)), product(torch.zeros(2)), atol=2e-3)


def test_dimension_i_pairs_with_i_plus_half() -> None:
    sin, cos = rope(D64)((2, 2), prefix=0)
    tokens = torch.zeros(1, 1, 4, 64)
    tokens[..., 3] = 1.0
    rotated = rotate(tokens, (sin, cos))[0, 0]
    assert torch.allclose(rotated[:, 3], cos[:, 3])
    assert torch.allclose(rotated[:, 35], sin[:, 35])
    assert rotated.count_nonzero(dim=-1).tolist() == [2, 2, 2, 2]


def test_rescaling_draws_stay_in_range_differ_between_calls_and_are_off_in_eval() -> None:
    model = attrs.evolve(D64, rope_rescale_factor=2.0)
    module = rope(model, training=True)
    torch.manual_seed(0)
    # Period 1 with a grid of one patch row: the angle is 2 pi s y, so the scale s can be read off small angles.
    plain = rope(model)((64, 64), prefix=0)[0][:, 15]  # period 75: angles below 0.1, sin is nearly linear
    at = int(plain.abs().argmax())
    scales = torch.stack([module((64, 64), prefix=0)[0][at, 15] for _ in range(300)]) / plain[at]
    assert 0.49 < scales.min() < 0.53
    assert 1.9 < scales.max() < 2.01
    assert abs(scales.log().mean()) < 5 * 2 * math.log(2) / math.sqrt(12 * 300)
    module.eval()
    assert torch.equal(module((64, 64), prefix=0)[0], module((64, 64), prefix=0)[0])


def places(options: dict[str, float], *, training: bool = True) -> torch.Tensor:
    """(64, 64, 2) row and column as the longest period sees them: its angles are so small that sin is nearly linear."""
    sin, _ = rope(attrs.evolve(D64, **options), training=training)((64, 64), prefix=0)
    return sin[:, [15, 31]].view(64, 64, 2) * 100 ** (15 / 16) / (2 * math.pi)


def test_a_shift_moves_each_axis_by_up_to_s() -> None:
    torch.manual_seed(0)
    still = places({}, training=False)
    moved = torch.stack([(places({"rope_shift": 0.5}) - still).mean((0, 1)) for _ in range(100)])
    assert 0.4 < moved.abs().max() <= 0.5 + 1e-3
    assert abs(torch.corrcoef(moved.T)[0, 1]) < 0.4


def test_a_jitter_scales_each_axis_by_up_to_j() -> None:
    torch.manual_seed(0)
    still = places({}, training=False)[0, 0]
    scales = torch.stack([places({"rope_jitter_factor": 2.0})[0, 0] / still for _ in range(100)])
    assert 0.49 < scales.min() < 0.6
    assert 1.7 < scales.max() < 2.01
    assert abs(torch.corrcoef(scales.T)[0, 1]) < 0.4
