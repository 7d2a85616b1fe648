"""Masks: how many patches, of what shape, of which crops (T19 of the recipe)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bigrun.data.masking import Masks, block_masks, crop_masks
from bigrun.sections import Masking

small = settings(deadline=None, max_examples=40)
grids = st.tuples(st.integers(2, 20), st.integers(2, 20))
CPU = torch.device("cpu")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@small
@given(grid=grids, shares=st.lists(st.floats(0, 1), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_t19_exactly_as_many_patches_as_asked(grid: tuple[int, int], shares: list[float], seed: int) -> None:
    counts = np.array([int(share * grid[0] * grid[1]) for share in shares])
    masks = block_masks(counts, grid, Masking(), rng(seed))
    assert masks.shape == (len(shares), *grid)
    assert masks.sum((1, 2)).tolist() == counts.tolist()


@small
@given(crops=st.integers(1, 30), grid=grids, share=st.floats(0, 1), shift=st.booleans(), seed=st.integers(0, 1000))
def test_t19_the_crops_of_a_step_climb_the_ladder(
    crops: int, grid: tuple[int, int], share: float, shift: bool, seed: int
) -> None:
    masks = crop_masks(crops, grid, Masking(crop_fraction=share, shift=shift), rng(seed))
    patches, masked = grid[0] * grid[1], int(crops * share)
    ladder = np.linspace(0.1, 0.5, masked + 1)[1:]
    expected = [0] * (crops - masked) + [int(patches * ratio) for ratio in ladder]
    assert masks.shape == (crops, patches)
    assert sorted(masks.sum(1).tolist()) == sorted(expected)


def test_t19_one_masked_crop_takes_the_upper_bound() -> None:
    masks = crop_masks(2, (14, 14), Masking(), rng())
    assert sorted(masks.sum(1).tolist()) == [0, 98]


@small
@given(crops=st.integers(1, 12), seed=st.integers(0, 1000))
def test_t19_indices_and_weights_belong_to_the_masks(crops: int, seed: int) -> None:
    host = crop_masks(crops, (6, 5), Masking(), rng(seed))
    masks = Masks.of(host, CPU)
    assert torch.equal(masks.patches, torch.from_numpy(host))
    assert torch.equal(masks.indices, torch.from_numpy(np.flatnonzero(host)))
    counts = host.sum(1)
    owners = masks.indices // 30
    torch.testing.assert_close(masks.weights, (1 / torch.from_numpy(counts)[owners]).float())
    assert masks.weights.sum().item() == pytest.approx((counts > 0).sum(), rel=1e-5)
    assert (masks.indices.dtype, masks.weights.dtype) == (torch.int64, torch.float32)


def test_t19_no_mask_is_no_index() -> None:
    masks = Masks.of(crop_masks(4, (6, 6), Masking(crop_fraction=0.0), rng()), CPU)
    assert not masks.patches.any()
    assert (len(masks.indices), len(masks.weights)) == (0, 0)


def test_t19_the_same_seed_gives_the_same_masks() -> None:
    first, again, other = (crop_masks(16, (14, 14), Masking(), rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_t19_which_crop_is_masked_and_how_much_is_shuffled() -> None:
    """Over many steps each place of a step is masked equally often, with the ladder's mean."""
    counts = np.array([crop_masks(8, (8, 8), Masking(), rng(seed)).sum(1) for seed in range(400)])  # (400, 8)
    often = (counts > 0).mean(0)
    assert np.abs(often - 0.5).max() < 0.1  # 4 standard errors
    ladder = np.mean([int(64 * r) for r in np.linspace(0.1, 0.5, 5)[1:]])
    assert np.abs(counts.mean(0) - ladder / 2).max() < 3.0


def test_t19_masks_are_blocks_not_noise() -> None:
    """A quarter of 14 x 14 as blocks has few connected parts and few border edges; scattered patches have many."""
    masks = block_masks(np.full(50, 49), (14, 14), Masking(), rng())
    scattered = np.argsort(rng(1).random((50, 196)), axis=1) < 49
    edges = [np.abs(np.diff(m.reshape(-1, 14, 14), axis=a)).sum() for m in (masks * 1, scattered * 1) for a in (1, 2)]
    assert sum(edges[:2]) < 0.6 * sum(edges[2:])
    assert np.mean([ndimage.label(m)[1] for m in masks]) < 8


@pytest.mark.parametrize("shift", [False, True])
def test_t19_without_a_shift_a_block_never_wraps_around(shift: bool) -> None:
    """The first and the last row are masked together only when masks are shifted or blocks happen to reach both."""
    masks = crop_masks(200, (16, 16), Masking(crop_fraction=1.0, ratio=(0.05, 0.12), shift=shift), rng())
    m = masks.reshape(-1, 16, 16)
    both = (m[:, 0] & m[:, -1]).any(1).mean()
    assert both > 0.1 if shift else both < 0.1


def test_t19_blocks_have_the_configured_area_and_aspect() -> None:
    """One block fills a small count when the smallest block is the count itself: a rectangle of about that area."""
    section = Masking(min_block_patches=12, block_aspect=0.5)
    masks = block_masks(np.full(300, 12), (16, 16), section, rng())
    heights = np.array([np.ptp(np.nonzero(m)[0]) + 1 for m in masks])
    widths = np.array([np.ptp(np.nonzero(m)[1]) + 1 for m in masks])
    rectangles = heights * widths == 12
    assert rectangles.mean() > 0.5
    ratio = heights[rectangles] / widths[rectangles]
    assert ratio.min() >= 0.3
    assert ratio.max() <= 3.1


@pytest.mark.parametrize("ratio", [(0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.1, 1.1)])
def test_a_ratio_that_does_not_climb_is_refused(ratio: tuple[float, float]) -> None:
    assert [name for name, _ in Masking(ratio=ratio).problems()] == ["ratio"]
