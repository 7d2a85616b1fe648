"""Where crops are cut: inside the image, with the distributions of the recipe."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigrun.data.boxes import BOX_DRAWS, crop_boxes, spread
from bigrun.data.draws import uniforms

Floats = npt.NDArray[np.float64]

GLOBAL, LOCAL, ASPECT = (0.32, 1.0), (0.05, 0.32), (0.75, 4 / 3)
COUNT = 4000
# Of 1000 right samples one has a larger distance from its distribution (Kolmogorov).
ONE_SAMPLE = 1.95 / np.sqrt(COUNT)
TWO_SAMPLES = 1.95 * np.sqrt(2 / COUNT)


def boxes_in(height: int, width: int, scale: tuple[float, float]) -> tuple[Floats, ...]:
    """Top, left, height and width of COUNT boxes."""
    draws = uniforms(7, "boxes", np.arange(COUNT), count=BOX_DRAWS)
    sizes = np.full((COUNT, 2), (height, width))
    return tuple(crop_boxes(draws, sizes, scale, ASPECT).T.astype(np.float64))


def distance_from_uniform(values: Floats, low: float, high: float) -> float:
    """Kolmogorov-Smirnov distance."""
    ranks = np.arange(len(values) + 1) / len(values)
    share = (np.sort(values) - low) / (high - low)
    return float(max(np.abs(share - ranks[:-1]).max(), np.abs(share - ranks[1:]).max()))


def distance(a: Floats, b: Floats) -> float:
    """Kolmogorov-Smirnov distance of two samples."""
    places = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(values), places, side="right") / len(values) for values in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


def test_t20_areas_are_uniform_aspects_log_uniform_and_places_uniform() -> None:
    # Every local box fits into this image, so nothing is rejected, and a pixel is a small step.
    height, width = 6000, 8000
    top, left, tall, wide = boxes_in(height, width, LOCAL)
    assert distance_from_uniform(tall * wide / (height * width), *LOCAL) < ONE_SAMPLE
    assert distance_from_uniform(np.log(wide / tall), *np.log(ASPECT)) < ONE_SAMPLE
    assert distance_from_uniform(top / (height - tall), 0, 1) < ONE_SAMPLE
    assert distance_from_uniform(left / (width - wide), 0, 1) < ONE_SAMPLE
    together = np.corrcoef([tall * wide, np.log(wide / tall), top / (height - tall), left / (width - wide)])
    assert np.abs(together - np.eye(4)).max() < 4 / np.sqrt(COUNT)


@pytest.mark.parametrize(("height", "width"), [(6000, 6000), (4000, 6000), (6000, 3500)])
def test_large_boxes_are_those_of_the_same_distribution_that_fit(height: int, width: int) -> None:
    _, _, tall, wide = boxes_in(height, width, GLOBAL)
    generator = np.random.default_rng(0)
    area = height * width * generator.uniform(*GLOBAL, 20 * COUNT)
    ratio = np.exp(generator.uniform(*np.log(ASPECT), 20 * COUNT))
    fits = (np.sqrt(area / ratio) <= height) & (np.sqrt(area * ratio) <= width)
    area, ratio = area[fits][:COUNT], ratio[fits][:COUNT]
    # A few of the boxes found no fit in ten attempts.
    allowed = TWO_SAMPLES + (1 - fits.mean()) ** 10
    assert distance(tall * wide, area) < allowed
    assert distance(np.log(wide / tall), np.log(ratio)) < allowed


@settings(deadline=None, max_examples=100)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    low=st.floats(0.01, 1),
    narrow=st.floats(0.1, 1),
    seed=st.integers(0, 1000),
)
def test_a_box_is_inside_its_image_and_has_an_allowed_shape(
    height: int, width: int, low: float, narrow: float, seed: int
) -> None:
    draws = uniforms(seed, "boxes", np.arange(20), count=BOX_DRAWS)
    boxes = crop_boxes(draws, np.full((20, 2), (height, width)), (low, 1), (narrow, 1 / narrow))
    assert boxes.dtype == np.int64
    top, left, tall, wide = boxes.T
    assert ((top >= 0) & (left >= 0) & (tall >= 1) & (wide >= 1)).all()
    assert ((top + tall <= height) & (left + wide <= width)).all()
    # Sides are rounded to whole pixels, by half of one at most.
    assert ((wide - 0.5) / (tall + 0.5) <= 1 / narrow + 1e-9).all()
    assert ((wide + 0.5) / (tall - 0.5) >= narrow - 1e-9).all()


def test_each_image_has_boxes_for_its_own_size() -> None:
    sizes = np.array([[40, 60], [500, 300], [9, 9]])
    draws = uniforms(1, "boxes", np.arange(2)[:, None], np.arange(3), count=BOX_DRAWS)  # (2, 3, ...): view, image
    together = crop_boxes(draws, sizes, GLOBAL, ASPECT)
    assert together.shape == (2, 3, 4)
    for image in range(3):
        alone = crop_boxes(draws[:, image : image + 1], sizes[image : image + 1], GLOBAL, ASPECT)
        assert (together[:, image] == alone[:, 0]).all()


@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10), (1, 1), (1, 50)])
def test_an_image_that_no_box_fits_is_cut_in_the_middle(height: int, width: int) -> None:
    sizes = np.full((200, 2), (height, width))
    draws = uniforms(0, "t", np.arange(200), count=BOX_DRAWS)
    top, left, tall, wide = crop_boxes(draws, sizes, (0.9, 1.0), ASPECT).T
    assert (np.abs((height - tall) / 2 - top) < 1).all()
    assert (np.abs((width - wide) / 2 - left) < 1).all()
    assert (np.maximum(tall, wide) <= np.rint(min(height, width) * 4 / 3)).all()
    assert (np.minimum(tall, wide) == min(height, width)).all()


def test_spread_reaches_its_ends() -> None:
    assert spread(np.array([0.0, 0.5, 1.0]), -2, 4).tolist() == [-2, 1, 4]
