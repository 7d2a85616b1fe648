from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from bigrun.data import augment

few = settings(deadline=None, max_examples=25)
SIDE = 12


def random_bytes(seed: int = 0) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def as_crop(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.6])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (augment.change_brightness_, ImageEnhance.Brightness),
        (augment.change_contrast_, ImageEnhance.Contrast),
        (augment.change_saturation_, ImageEnhance.Color),
    ],
)
def test_factors_mean_what_they_mean_in_pillow(ours: object, theirs: object, factor: float) -> None:
    pixels = random_bytes()
    expected = np.asarray(theirs(Image.fromarray(pixels)).enhance(factor))  # type: ignore[operator]
    got = ours(as_crop(pixels), torch.tensor([factor]))  # type: ignore[operator]
    # Pillow rounds the grey value, the blend and the result to bytes.
    assert (got - as_crop(expected)).abs().max() < 2 / 255


@few
@given(seed=st.integers(0, 1000), turns=st.floats(-0.5, 0.5))
def test_hue_turns_as_in_colorsys(seed: int, turns: float) -> None:
    crop = as_crop(random_bytes(seed)[:2, :3])
    shifted = augment.shift_hue_(crop.clone(), torch.tensor([turns]))[0].permute(1, 2, 0).reshape(-1, 3)
    for before, after in zip(crop[0].permute(1, 2, 0).reshape(-1, 3).tolist(), shifted.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value), abs=1e-5)


def test_grey_black_and_white_have_no_hue_to_turn() -> None:
    crop = torch.tensor([0.0, 0.25, 1.0]).repeat(1, 3, 1, 1)
    assert torch.equal(augment.shift_hue_(crop.clone(), torch.tensor([0.3])), crop)


def test_luma_of_grey_is_grey() -> None:
    assert torch.allclose(augment.luma(torch.full((2, 3, 4, 4), 0.6)), torch.full((2, 1, 4, 4), 0.6))


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_a_truncated_gaussian_with_reflected_borders(sigma: float) -> None:
    pixels = np.random.default_rng(1).random((10, 14))
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(pixels, 4, mode="reflect")
    expected = sum(kernel[i] * kernel[j] * padded[i : i + 10, j : j + 14] for i in range(9) for j in range(9))
    got = augment.gaussian_blur(torch.from_numpy(pixels).float().expand(1, 3, 10, 14), torch.tensor([sigma]))
    assert np.abs(got.numpy() - expected).max() < 1e-6


def test_blur_leaves_flat_crops_alone() -> None:
    flat = torch.full((2, 3, 9, 9), 0.3)
    assert torch.allclose(augment.gaussian_blur(flat, torch.tensor([0.1, 2.0])), flat)


def test_solarise_inverts_the_bright_half() -> None:
    crop = torch.tensor([0.0, 0.5, 0.51, 1.0]).view(1, 1, 2, 2)
    assert torch.allclose(augment.solarise(crop).flatten(), torch.tensor([0.0, 0.5, 0.49, 0.0]))


@few
@given(seed=st.integers(0, 1000), strength=st.floats(0, 1))
def test_every_distortion_stays_in_range_and_those_without_underscore_leave_their_input(
    seed: int, strength: float
) -> None:
    crops = torch.cat([as_crop(random_bytes(seed)), as_crop(random_bytes(seed + 1))])
    before = crops.clone()
    factor = torch.tensor([1 - strength, 1 + strength])
    for result in (
        augment.jitter_colour_(crops.clone(), factor, factor, factor, factor / 4 - 0.25),
        augment.gaussian_blur(crops, factor + 0.1),
        augment.solarise(crops),
        augment.luma(crops),
    ):
        assert result.isfinite().all()
        assert -1e-6 <= result.min() <= result.max() <= 1 + 1e-6
    assert torch.equal(crops, before)


def test_each_crop_has_its_own_strength() -> None:
    crops = as_crop(random_bytes()).repeat(2, 1, 1, 1)
    strengths = [
        torch.tensor([1.2, 0.7]),
        torch.tensor([0.8, 1.1]),
        torch.tensor([1.5, 0.5]),
        torch.tensor([0.1, -0.2]),
    ]
    together = augment.jitter_colour_(crops.clone(), *strengths)
    for row in (0, 1):
        alone = augment.jitter_colour_(crops[:1].clone(), *(s[row : row + 1] for s in strengths))
        assert torch.allclose(together[row], alone[0], atol=1e-6)
