"""How stored values become [0, 1], and how large a pixel of a crop is."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bigrun import hookimpl
from bigrun.data.dataset import Batch, Samples
from bigrun.data.images import Images
from bigrun.data.spacing import view_spacing_mm
from bigrun.data.tone import FullRange, Steady, Tone
from bigrun.data.views import ExtraView, Views
from bigrun.errors import PluginError
from bigrun.sections import Views as Section
from bigrun.testing.runner import Runner, SyntheticImages

CPU = torch.device("cpu")
PLAIN = Section(
    global_size_px=16,
    local_size_px=8,
    local_crops=3,
    colour_probability=0,
    grayscale_probability=0,
    blur_probability=(0, 0, 0),
    solarise_probability=0,
    mean=(0, 0, 0),
    std=(1, 1, 1),
)
VIEWS = 5


class Given:
    """A line for each view, the same for every image but for what its number adds."""

    def __init__(self, gain: npt.ArrayLike, shift: npt.ArrayLike | None) -> None:
        self.gain = np.asarray(gain, dtype=np.float64)
        self.shift = None if shift is None else np.asarray(shift, dtype=np.float64)

    def affine(self, samples: Samples, views: npt.NDArray[np.int64], seed: int) -> Any:
        ones = np.ones(len(samples))
        return np.outer(self.gain[views], ones), None if self.shift is None else np.outer(self.shift[views], ones)

    def typical(self, samples: Samples) -> Any:
        return np.full(len(samples), 2.0), np.full(len(samples), 0.25)


def pack(images: list[Tensor]) -> Samples:
    return Samples.pack(images, torch.arange(len(images)), torch.zeros(len(images), dtype=torch.int64))


def noise(count: int = 3, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 30 + 5 * k, 40, generator=generator) for k in range(count)]
    return images if dtype is torch.float32 else [(image * 65535).int().to(dtype) for image in images]


def by_view(batch: Batch, count: int) -> list[Tensor]:
    """Each view's crops of all images."""
    assert batch.local_crops is not None
    return [*batch.global_crops.split(count), *batch.local_crops.split(count)]


@settings(deadline=None, max_examples=20)
@given(
    gain=st.lists(st.floats(-3, 3), min_size=VIEWS, max_size=VIEWS),
    shift=st.lists(st.floats(-1, 1), min_size=VIEWS, max_size=VIEWS),
)
def test_a_line_after_resampling_is_that_line_before_it(gain: list[float], shift: list[float]) -> None:
    images = noise()
    toned = by_view(Views(PLAIN, 3, 0, tone=Given(gain, shift))(pack(images), CPU, 1), 3)
    for view in range(VIEWS):
        changed = pack([image * gain[view] + shift[view] for image in images])
        before = by_view(Views(PLAIN, 3, 0)(changed, CPU, 1), 3)[view]
        assert torch.allclose(toned[view], before, atol=1e-5)


def test_values_are_clamped_after_the_line() -> None:
    crops = Views(PLAIN, 3, 0, tone=Given([9.0] * VIEWS, [-4.0] * VIEWS))(pack(noise()), CPU, 1).global_crops
    assert crops.min() == 0
    assert crops.max() == 1
    assert 0.05 < ((crops > 0) & (crops < 1)).float().mean() < 0.95


def test_without_a_tone_the_stored_type_is_the_range() -> None:
    images = noise(dtype=torch.uint16)
    plain = Views(PLAIN, 3, 0)(pack(images), CPU, 1)
    same = Views(PLAIN, 3, 0, tone=Given([1 / 65535] * VIEWS, None))(pack(images), CPU, 1)
    assert torch.equal(plain.global_crops, same.global_crops)
    gain, shift = FullRange().typical(pack([torch.zeros(1, 2, 2, dtype=torch.uint8), *images]))
    assert shift is None
    assert gain.tolist() == [1 / 255, *[1 / 65535] * 3]


def test_an_extra_view_has_the_tone_of_its_global_crop() -> None:
    tone = Given([0.5, 0.25, 1, 1, 1], [0.1, 0.6, 0, 0, 0])
    views = Views(PLAIN, 3, 0, {"same": ExtraView(), "large": ExtraView(2.0)}, tone=tone)
    batch = views(pack(noise()), CPU, 1)
    assert torch.equal(batch.extra["same"], batch.global_crops)
    halved = torch.nn.functional.avg_pool2d(batch.extra["large"], 2)
    means = [crops.mean(dim=(1, 2, 3)) for crops in (halved, batch.global_crops)]
    assert torch.allclose(*means, atol=0.01)


def test_a_steady_tone_is_typical_in_every_view() -> None:
    tone = Steady(Given([9.0] * VIEWS, None))
    images = noise()
    steady = Views(PLAIN, 3, 0, tone=tone)(pack(images), CPU, 1)
    expected = Views(PLAIN, 3, 0, tone=Given([2.0] * VIEWS, [0.25] * VIEWS))(pack(images), CPU, 1)
    assert torch.equal(steady.global_crops, expected.global_crops)
    assert torch.equal(*(crops.local_crops for crops in (steady, expected) if crops.local_crops is not None))
    plain = Views(PLAIN, 3, 0, tone=Steady(FullRange()))(pack(images), CPU, 1)
    assert torch.equal(plain.global_crops, Views(PLAIN, 3, 0)(pack(images), CPU, 1).global_crops)
    assert tone.typical(pack(images))[0].tolist() == [2.0] * 3


@settings(deadline=None, max_examples=30)
@given(gain=st.floats(0.2, 4), shift=st.floats(-1, 1), brightness=st.floats(0.3, 1.7))
def test_the_mean_luma_is_of_the_image_in_its_tone(gain: float, shift: float, brightness: float) -> None:
    (image,) = noise(1)
    found = Images(pack([image]), 3, CPU).mean_luma(np.array([brightness]), np.array([gain]), np.array([shift]))
    shown = (image * gain + shift).clamp(0, 1)
    expected = Images(pack([shown]), 3, CPU).mean_luma(np.array([brightness]), np.ones(1), None)
    assert torch.allclose(found, expected, atol=1e-5)


# -- the size of a pixel --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), x=st.floats(0.3, 2.0), y=st.floats(0.3, 2.0), z=st.floats(0.5, 5.0))
def test_the_spacing_of_a_crop_is_what_a_ruler_in_the_image_shows(seed: int, x: float, y: float, z: float) -> None:
    """Channels 0 and 1 of the image are the places of its pixels in units of 100 mm."""
    height, width = 40, 60
    places = [(torch.arange(width) + 0.5) * x, ((torch.arange(height) + 0.5) * y)[:, None]]
    image = torch.stack([*(place.expand(height, width) for place in places), torch.zeros(height, width)]) / 100
    section = attrs.evolve(PLAIN, flip_probability=0)
    known = np.array([[x, y, z]] * 2, dtype=np.float32)
    batch = Views(section, 3, seed, tone=Given([0.5] * VIEWS, None), spacing_mm=lambda indices: known[indices])(
        pack([image, image]), CPU, 1
    )
    assert batch.local_crops is not None
    for crops, spacing in ((batch.global_crops, batch.global_spacing_mm), (batch.local_crops, batch.local_spacing_mm)):
        assert spacing is not None
        assert spacing.dtype == torch.float32
        assert spacing.shape == (len(crops), 3)
        middle = slice(3, -3) if crops.shape[-1] > 8 else slice(2, -2)
        across = crops[:, 0].diff(dim=2)[:, :, middle].mean(dim=(1, 2)) * 200
        down = crops[:, 1].diff(dim=1)[:, middle].mean(dim=(1, 2)) * 200
        assert torch.allclose(torch.stack([across, down], dim=1), spacing[:, :2], rtol=0.03, atol=0.02)
        assert torch.allclose(spacing[:, 2], torch.tensor(z, dtype=torch.float32))


def test_spacing_is_crop_major() -> None:
    boxes = np.array([[[0, 0, 10, 20], [0, 0, 30, 40]], [[0, 0, 50, 60], [0, 0, 70, 80]]])  # (V, b, 4)
    spacing = view_spacing_mm(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=np.float32), boxes, 10)
    assert spacing.tolist() == [[2, 2, 3], [16, 15, 6], [6, 10, 3], [32, 35, 6]]


@pytest.mark.parametrize("spacing_mm", [None, lambda indices: None])
def test_without_spacing_there_is_none(spacing_mm: Any) -> None:
    batch = Views(PLAIN, 3, 0, spacing_mm=spacing_mm)(pack(noise()), CPU, 1)
    assert batch.global_spacing_mm is None
    assert batch.local_spacing_mm is None


def test_unknown_spacing_stays_unknown_and_without_local_crops_there_is_none_of_them() -> None:
    views = Views(
        attrs.evolve(PLAIN, local_crops=0), 3, 0, spacing_mm=lambda i: np.full((len(i), 3), np.nan, np.float32)
    )
    batch = views(pack(noise()), CPU, 1)
    assert batch.global_spacing_mm is not None
    assert batch.global_spacing_mm.isnan().all()
    assert batch.local_spacing_mm is None


# -- in a run -------------------------------------------------------------------------------------------------


class Measured(SyntheticImages):
    def spacing_mm(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return np.stack([indices + 1, indices + 1, np.full(len(indices), 5)], axis=1).astype(np.float32)


class Dark:
    """A companion that brings a tone, and looks at what arrives."""

    def __init__(self, tone: Tone | None) -> None:
        self.tone = tone
        self.batches: list[Batch] = []

    @hookimpl
    def build_tone(self, run: Any) -> Tone | None:
        return self.tone

    @hookimpl
    def loss_terms(self, run: Any, batch: Batch) -> dict[str, Tensor]:
        self.batches.append(batch)
        return {}


def test_a_plugin_brings_a_tone_and_a_data_set_its_spacing(bigrunner: Runner) -> None:
    dark = Dark(Given([0.0] * 4, [0.0] * 4))
    bigrunner.run(steps=1, companions=[dark], dataset=Measured()).assert_finished()
    (batch,) = dark.batches
    assert batch.global_crops.std(dim=(2, 3)).max() < 1e-6  # black, but for what the colours change
    assert batch.global_spacing_mm is not None
    assert batch.local_spacing_mm is not None
    sides = batch.indices.repeat(2) + 1
    assert (batch.global_spacing_mm[:, 0] / sides).min() > 0.5 * 40 / 32
    assert (batch.global_spacing_mm[:, 0] / sides).max() <= 40 / 32 + 1e-6
    assert batch.local_spacing_mm.shape == (8, 3)


def test_a_tone_of_nobody_is_the_stored_range(bigrunner: Runner) -> None:
    plain = bigrunner.run(steps=2)
    left = bigrunner.run(steps=2, companions=[Dark(None)])
    assert left.losses == plain.losses


class BrokenTone:
    @hookimpl
    def build_tone(self, run: Any) -> Tone:
        raise RuntimeError("no tone")


def test_a_tone_that_fails_is_the_plugins_failure(bigrunner: Runner) -> None:
    result = bigrunner.run(f"{__name__}:BrokenTone", steps=1)
    assert isinstance(result.error, PluginError)
    assert "build_tone" in str(result.error)
