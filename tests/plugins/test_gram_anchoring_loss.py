"""gram-anchoring: what the Gram loss is, as mathematics."""

from __future__ import annotations

from typing import Literal

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from bigrun_gram.loss import gram_loss, resize_tokens, select

quick = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**31)
sizes = st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9))  # n, P, D
levels = st.sampled_from(["image", "batch"])
negatives = st.sampled_from(["keep", "clamp", "clamp-teacher"])


def random_features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- T12 ------------------------------------------------------------------------------------------------------


@quick
@given(seeds, sizes, levels, negatives)
def test_t12_equal_and_rotated_features_cost_nothing(
    seed: int, shape: tuple[int, int, int], level: Literal["image", "batch"], negative: Literal["keep", "clamp"]
) -> None:
    features = random_features(*shape, seed=seed)
    rotation, _ = torch.linalg.qr(random_features(shape[2], shape[2], seed=seed + 1))
    assert gram_loss(features, features, level, negatives=negative).item() == 0.0
    # A cosine of 0 that rounding makes positive on one side: no more than the square of fp32's rounding.
    assert gram_loss(features @ rotation, features, level, negatives=negative).item() < 1e-11


@quick
@given(seeds, sizes, levels)
def test_t12_the_length_of_a_patch_feature_does_not_matter(
    seed: int, shape: tuple[int, int, int], level: Literal["image", "batch"]
) -> None:
    features = random_features(*shape, seed=seed)
    lengths = random_features(*shape[:2], 1, seed=seed + 1).exp()
    assert gram_loss(features * lengths, features, level).item() < 1e-11
    assert gram_loss(features * 2, features, level, normalise=False).item() > 0


@quick
@given(seeds, sizes, levels, st.sampled_from(["keep", "clamp"]))
def test_t12_it_is_symmetric_and_does_not_depend_on_the_order_of_the_crops(
    seed: int, shape: tuple[int, int, int], level: Literal["image", "batch"], negative: Literal["keep", "clamp"]
) -> None:
    a, b = random_features(*shape, seed=seed), random_features(*shape, seed=seed + 1)
    loss = gram_loss(a, b, level, negatives=negative).item()
    assert gram_loss(b, a, level, negatives=negative).item() == loss
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(seed))
    assert gram_loss(a[order], b[order], level, negatives=negative).item() == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("patches", [2, 5, 16])
def test_t12_collapsed_features_are_one_minus_one_over_p_from_orthonormal_ones(patches: int) -> None:
    collapsed, orthonormal = torch.ones(1, patches, patches), torch.eye(patches)[None]
    assert gram_loss(collapsed, orthonormal).item() == pytest.approx(1 - 1 / patches)


def test_t12_no_gradient_reaches_the_teacher() -> None:
    student, teacher = random_features(1, 4, 8), random_features(1, 4, 8, seed=1)
    student.requires_grad_()
    teacher.requires_grad_()
    gram_loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


grids = st.tuples(st.integers(1, 6), st.integers(1, 6))


@quick
@given(seeds, grids, grids, st.floats(-8, 8, allow_nan=False))
def test_t12_a_constant_feature_map_is_unchanged_by_the_resize(
    seed: int, grid: tuple[int, int], to: tuple[int, int], value: float
) -> None:
    tokens = value + torch.zeros(2, grid[0] * grid[1], 3)
    resized = resize_tokens(tokens, grid, to)
    assert resized.shape == (2, to[0] * to[1], 3)
    torch.testing.assert_close(resized, torch.full_like(resized, value), rtol=1e-5, atol=1e-5)


# -- the other options ----------------------------------------------------------------------------------------


def test_one_turned_patch_costs() -> None:
    features = random_features(2, 6, 8)
    assert gram_loss(features * -1, features).item() < 1e-12
    one_turned = features * torch.tensor([-1.0, 1, 1, 1, 1, 1]).view(1, 6, 1)
    assert gram_loss(one_turned, features).item() > 1e-3


def test_image_level_is_a_mean_over_crops_and_batch_level_compares_them() -> None:
    a, b = random_features(2, 6, 8), random_features(2, 6, 8, seed=3)
    each = torch.stack([gram_loss(a[i : i + 1], b[i : i + 1]) for i in range(2)])
    assert gram_loss(a, b).item() == pytest.approx(each.mean().item())
    together = gram_loss(a.reshape(1, 12, 8), b.reshape(1, 12, 8))
    assert gram_loss(a, b, "batch").item() == pytest.approx(together.item())
    # Each crop as it was, but turned against the other: only the batch level sees it.
    turned = torch.stack([a[0], a[1] @ torch.linalg.qr(random_features(8, 8, seed=4))[0]])
    assert gram_loss(turned, a).item() < 1e-11
    assert gram_loss(turned, a, "batch").item() > 1e-3


def at_angle(degrees: float) -> torch.Tensor:
    """Two patches at an angle, (1, 2, 2): two of the four entries of the Gram matrix are its cosine."""
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([torch.tensor([1.0, 0.0]), torch.stack([angle.cos(), angle.sin()])])[None]


@pytest.mark.parametrize(
    ("negative", "student", "teacher", "expected"),
    [  # cosine 0.5 at 60 degrees, -0.5 at 120, -1 at 180; half of the entries are that of the pair
        ("keep", 120, 180, 0.125),
        ("clamp", 120, 180, 0.0),
        ("clamp-teacher", 120, 180, 0.0),
        ("keep", 60, 120, 0.5),
        ("clamp", 60, 120, 0.125),
        ("clamp-teacher", 60, 120, 0.125),
        ("keep", 120, 60, 0.5),
        ("clamp", 120, 60, 0.125),
        ("clamp-teacher", 120, 60, 0.5),  # the teacher finds them alike: the student's sign stays
    ],
)
def test_what_becomes_of_negative_similarities(
    negative: Literal["keep", "clamp", "clamp-teacher"], student: float, teacher: float, expected: float
) -> None:
    loss = gram_loss(at_angle(student), at_angle(teacher), negatives=negative)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_it_is_computed_in_fp32_whatever_surrounds_it() -> None:
    a, b = random_features(1, 16, 64), random_features(1, 16, 64, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = gram_loss(a, b)
        resized = resize_tokens(a, (4, 4), (2, 2))
    assert inside.dtype == resized.dtype == torch.float32
    assert inside.item() == gram_loss(a, b).item()
    assert torch.equal(resized, resize_tokens(a, (4, 4), (2, 2)))


def test_it_is_exact_where_the_features_are_nearly_equal() -> None:
    teacher = random_features(1, 600, 64)
    student = teacher + 1e-3 * random_features(1, 600, 64, seed=1)
    exact = gram_matrix(student.double()) - gram_matrix(teacher.double())
    assert gram_loss(student, teacher).item() == pytest.approx(exact.square().mean().item(), rel=1e-3)


def gram_matrix(features: torch.Tensor) -> torch.Tensor:
    directions = torch.nn.functional.normalize(features, dim=-1)
    return directions @ directions.mT


def test_masks_tell_which_patches_count() -> None:
    tokens = torch.arange(12.0).view(2, 3, 2)
    masks = torch.tensor([[True, False, False], [False, True, True]])
    assert select(tokens, "all", None) is tokens
    assert select(tokens, "masked", masks).tolist() == [[[0, 1], [8, 9], [10, 11]]]
    assert select(tokens, "unmasked", masks).tolist() == [[[2, 3], [4, 5], [6, 7]]]
    with pytest.raises(ValueError, match="hides no patches"):
        select(tokens, "masked", None)


def test_no_patches_cost_nothing_and_keep_the_graph() -> None:
    student = random_features(2, 3, 4).requires_grad_()
    nothing = select(student, "masked", torch.zeros(2, 3, dtype=torch.bool))
    loss = gram_loss(nothing, nothing, "batch")
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert student.grad.abs().sum() == 0


def test_the_resize_is_bicubic_without_antialiasing() -> None:
    """Halving reads the four values around the middle of two, at distances 1.5, 0.5, 0.5, 1.5, of which Keys' kernel
    with a = -0.75 makes -3, 19, 19, -3 (of 32), the border repeated: (16, 19, -3, 0) and (0, -3, 19, 16)."""
    halve = torch.tensor([[16.0, 19, -3, 0], [0, -3, 19, 16]]) / 32
    line = torch.tensor([0.0, 32, 0, 0]).view(1, 4, 1)
    for grid, to in (((4, 1), (2, 1)), ((1, 4), (1, 2))):
        assert resize_tokens(line, grid, to).flatten().tolist() == pytest.approx([19, -3], abs=1e-4)
    image = random_features(4, 4)
    resized = resize_tokens(image.view(1, 16, 1), (4, 4), (2, 2)).view(2, 2)
    torch.testing.assert_close(resized, halve @ image @ halve.T)  # rows are rows


def test_an_enlarged_map_is_reduced_to_what_it_was() -> None:
    smooth = torch.linspace(0, 1, 64).view(1, 1, 8, 8) ** 2
    larger = torch.nn.functional.interpolate(smooth, (16, 16), mode="bicubic", align_corners=False)
    tokens = resize_tokens(larger.flatten(2).mT, (16, 16), (8, 8))
    torch.testing.assert_close(tokens.mT.view(1, 1, 8, 8)[..., 1:-1, 1:-1], smooth[..., 1:-1, 1:-1], atol=0.02, rtol=0)
    assert torch.equal(resize_tokens(tokens, (8, 8), (8, 8)), tokens)
