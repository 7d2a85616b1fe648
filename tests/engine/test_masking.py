"""Masks: how many patches, of what shape, of which crops (T19 of the recipe)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bigrun.data.masking import Masks, block_masks, crop_masks, rectangles
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


def one_by_one(count: int, grid: tuple[int, int], section: Masking, draws: np.random.Generator) -> np.ndarray:
    """The generator as published, a mask and a block at a time: what the batched one must agree with on average."""
    height, width = grid
    mask, attempts = np.zeros(grid, dtype=bool), 0
    while mask.sum() < count and attempts < 10:
        room = min(count - mask.sum(), height // 2 * width)
        area = section.min_block_patches + draws.random() * (room - section.min_block_patches)
        aspect = np.exp(draws.uniform(np.log(section.block_aspect), -np.log(section.block_aspect)))
        tall, wide = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        attempts += 1
        if tall >= height or wide >= width:
            continue
        top, left = draws.integers(0, height - tall, endpoint=True), draws.integers(0, width - wide, endpoint=True)
        block = np.zeros(grid, dtype=bool)
        block[top : top + tall, left : left + wide] = True
        if 0 < (block & ~mask).sum() <= room:
            mask, attempts = mask | block, 0
    free = np.flatnonzero(~mask)
    mask.flat[draws.choice(free, count - mask.sum(), replace=False)] = True
    return mask


def shapes(masks: np.ndarray) -> np.ndarray:
    """What describes each mask (n, H, W): (n, 12 + H * W)."""
    m = masks.astype(np.float64)
    columns = [np.abs(np.diff(m, axis=axis)).sum((1, 2)) for axis in (1, 2)]  # edges: short for blocks
    for tall, wide in ((2, 2), (3, 3), (4, 4), (5, 5), (1, 4), (4, 1), (2, 6), (6, 2)):  # hidden windows: of one block
        columns.append(np.lib.stride_tricks.sliding_window_view(masks, (tall, wide), (1, 2)).all((3, 4)).sum((1, 2)))
    columns += [np.array([ndimage.label(each)[1] for each in masks])]
    columns += [np.array([np.bincount(ndimage.label(each)[0].ravel())[1:].max() for each in masks])]
    return np.concatenate([np.stack(columns, 1), m.reshape(len(m), -1)], 1)


@pytest.mark.parametrize(
    ("grid", "share", "section"),
    [
        ((14, 14), 0.3, Masking()),
        ((9, 9), 0.5, Masking()),  # half of the rows is less than the count
        ((12, 12), 0.9, Masking()),  # the cap binds, and many blocks do not fit
        ((7, 11), 0.3, Masking(block_aspect=0.05)),  # long blocks: many would span a side
        ((10, 10), 0.25, Masking(min_block_patches=20)),  # blocks of the whole count
    ],
)
def test_t19_masks_are_distributed_as_those_made_block_by_block(
    grid: tuple[int, int], share: float, section: Masking
) -> None:
    """Edges, hidden windows, parts and the share of every patch: all means within 4.5 standard errors."""
    count, draws = int(share * grid[0] * grid[1]), rng(1)
    found = shapes(block_masks(np.full(3000, count), grid, section, rng()))
    expected = shapes(np.stack([one_by_one(count, grid, section, draws) for _ in range(400)]))
    error = np.sqrt(found.var(0) / len(found) + expected.var(0) / len(expected))
    assert (np.abs(found.mean(0) - expected.mean(0)) / np.maximum(error, 1e-2)).max() < 4.5


def whole(grid: tuple[int, int], count: int, tall: int, wide: int, **options: float) -> float:
    """How many of the masks of `count` patches, in blocks of that area, are one block of that size."""
    section = Masking(min_block_patches=count, **options)
    m = block_masks(np.full(2000, count), grid, section, rng())
    boxes = np.lib.stride_tricks.sliding_window_view(m, (tall, wide), (1, 2)).all((3, 4)).any((1, 2))
    return float(boxes.mean())


@pytest.mark.parametrize(
    ("grid", "spanning", "inside"), [((8, 5), (2, 5), (5, 2)), ((5, 8), (5, 2), (2, 5))], ids=["wide", "tall"]
)
def test_t19_no_block_spans_a_whole_side(
    grid: tuple[int, int], spanning: tuple[int, int], inside: tuple[int, int]
) -> None:
    assert whole(grid, 10, *inside) > 0.2
    assert whole(grid, 10, *spanning) < 0.05  # made of smaller blocks by chance


def test_t19_no_block_is_larger_than_half_of_the_rows() -> None:
    """36 patches as 6 x 6 fit 8 x 8, but with 4 rows of 8 the largest block has 32."""
    assert whole((8, 8), 36, 6, 6, block_aspect=1.0) < 0.01
    assert whole((9, 8), 36, 6, 6, block_aspect=1.0) < 0.01  # of 9 rows too, half are 4
    assert whole((10, 8), 36, 6, 6, block_aspect=1.0) > 0.5


def test_t19_a_block_that_adds_too_much_is_not_cut_to_fit() -> None:
    """A square of 13 patches is rounded to 4 x 4, three too many: none is set, and 13 single patches are chosen."""
    section = Masking(min_block_patches=13, block_aspect=1.0)
    m = block_masks(np.full(500, 13), (12, 12), section, rng())
    assert np.mean([ndimage.label(each)[1] for each in m]) > 6


@small
@given(
    grid=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    room=st.integers(1, 200),
    least=st.integers(1, 30),
    low=st.floats(0.01, 1),
    draws=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4),
)
def test_t19_a_rectangle_has_the_drawn_area_and_aspect_and_lies_on_the_grid(
    grid: tuple[int, int], room: int, least: int, low: float, draws: tuple[float, ...]
) -> None:
    section = Masking(min_block_patches=least, block_aspect=low)
    sides = [v.item() for v in rectangles(np.array([room]), grid, section, np.array([draws]))]
    area = least + draws[0] * (room - least)
    aspect = np.exp(np.log(low) * (1 - 2 * draws[1]))  # from `low` to 1 / `low`
    assert sides[0] == pytest.approx(np.sqrt(area * aspect), abs=0.5 + 1e-6)
    assert sides[1] == pytest.approx(np.sqrt(area / aspect), abs=0.5 + 1e-6)
    for side, start, length in zip(sides[:2], sides[2:], grid, strict=True):
        assert 0 <= start <= max(length - side, 0)


@small
@given(grid=grids, count=st.integers(1, 50), aspect=st.floats(0, 1, exclude_max=True))
def test_t19_every_place_of_a_rectangle_is_equally_likely(grid: tuple[int, int], count: int, aspect: float) -> None:
    """Draws that divide [0, 1) evenly meet every row and every column equally often, the last one too."""
    even = (np.arange(2520) + 0.5) / 2520  # a multiple of most numbers of places
    draws = np.stack([np.full(2520, 0.5), np.full(2520, aspect), even, even], 1)
    tall, wide, top, left = rectangles(np.full(2520, count), grid, Masking(), draws)
    for side, start, length in ((tall, top, grid[0]), (wide, left, grid[1])):
        often = np.bincount(start.ravel())
        assert len(often) == max(length - side.flat[0] + 1, 1)
        assert np.ptp(often) <= 1


@pytest.mark.parametrize("ratio", [(0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.1, 1.1)])
def test_a_ratio_that_does_not_climb_is_refused(ratio: tuple[float, float]) -> None:
    assert [name for name, _ in Masking(ratio=ratio).problems()] == ["ratio"]
