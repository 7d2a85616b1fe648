"""Resampling: Pillow's antialiased bicubic filter, on every path."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from torch import Tensor

from bigrun.data.dataset import Samples
from bigrun.data.images import Cut, Images, Lines, chunks
from bigrun.data.resample import Taps, resize, tap_counts
from bigrun.data.transfer import transfer

BICUBIC = Image.Resampling.BICUBIC
few = settings(deadline=None, max_examples=25)
sides = st.integers(1, 90)


def taps(length: int, size: int) -> tuple[Tensor, Tensor]:
    count = int(tap_counts(np.array(length), size))
    return Taps.of(torch.tensor([length]), size, count).of_side(0, count)


def interpolate(pixels: Tensor, size: int) -> Tensor:
    """torch's own."""
    return torch.nn.functional.interpolate(pixels[None], size=(size, size), mode="bicubic", antialias=True)[0]


def resized(pixels: Tensor, size: int) -> Tensor:
    return resize(pixels, taps(pixels.shape[1], size), taps(pixels.shape[2], size))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def photos() -> Iterator[np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]]:
    yield from (data.astronaut(), data.chelsea(), data.coffee())


@few
@given(height=sides, width=sides, size=st.integers(1, 70), channels=st.integers(1, 4), seed=st.integers(0, 99))
def test_it_is_the_resampling_of_torch(height: int, width: int, size: int, channels: int, seed: int) -> None:
    pixels = noise(channels, height, width, seed=seed)
    got = resized(pixels, size)
    assert got.shape == (channels, size, size)
    # torch's positions are rounded to fp32: 3e-5 of a pixel
    assert torch.allclose(got, interpolate(pixels, size), atol=1e-4)


@few
@given(height=sides, width=sides, size=st.integers(1, 70), low=st.floats(-1, 1), factor=st.floats(-2, 2))
def test_resampling_is_linear_and_keeps_flat_areas(
    height: int, width: int, size: int, low: float, factor: float
) -> None:
    pixels = noise(2, height, width)
    assert torch.allclose(resized(factor * pixels + low, size), factor * resized(pixels, size) + low, atol=1e-5)


@few
@given(height=sides, width=sides, size=st.integers(1, 70))
def test_a_mirrored_box_gives_a_mirrored_crop(height: int, width: int, size: int) -> None:
    pixels = noise(1, height, width)
    assert torch.allclose(resized(pixels.flip(-1), size), resized(pixels, size).flip(-1), atol=1e-5)
    assert torch.allclose(resized(pixels.flip(-2), size), resized(pixels, size).flip(-2), atol=1e-5)
    assert torch.allclose(resized(pixels.transpose(1, 2), size), resized(pixels, size).transpose(1, 2), atol=1e-5)


def test_the_same_size_changes_nothing() -> None:
    pixels = noise(3, 30, 30)
    assert torch.allclose(resized(pixels, 30), pixels, atol=1e-6)


@pytest.mark.parametrize("size", [16, 96, 224])
@pytest.mark.parametrize("box", [(10, 20, 133, 91), (0, 0, 300, 300), (7, 31, 64, 200), (100, 100, 20, 20)])
def test_t20_photographs_are_resized_as_in_pillow(box: tuple[int, int, int, int], size: int) -> None:
    top, left, tall, wide = box
    for photo in photos():
        pixels = torch.from_numpy(photo).permute(2, 0, 1)[:, top : top + tall, left : left + wide]
        got = resized(pixels, size)
        part = photo[top : top + tall, left : left + wide]
        exact = [Image.fromarray(part[..., c].astype(np.float32)).resize((size, size), BICUBIC) for c in range(3)]
        assert np.abs(got.numpy() - np.stack([np.asarray(channel) for channel in exact])).max() < 0.01  # of 255
        rounded = Image.fromarray(part).resize((size, size), BICUBIC)
        error = got.clamp(0, 255).numpy() - np.asarray(rounded, dtype=np.float32).transpose(2, 0, 1)
        # Pillow rounds to bytes after each of its two passes. Measured: 56 to 58 dB.
        assert 10 * np.log10(255**2 / np.mean(error**2)) > 55


def test_sides_do_not_depend_on_their_company() -> None:
    lengths = np.array([5, 400, 96, 31])
    counts = tap_counts(lengths, 48)
    together = Taps.of(torch.from_numpy(lengths), 48, int(counts.max()))
    for i, (length, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True)):
        places, weights = together.of_side(i, count)
        alone = taps(length, 48)
        assert torch.equal(places, alone[0])
        assert torch.equal(weights, alone[1])
        assert 0 <= places.min() <= places.max() < length
        assert torch.allclose(weights.sum(dim=-1), torch.ones(48))
        assert not together.weights[i, :, count:].any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_every_pixel_type_is_resampled(dtype: torch.dtype) -> None:
    pixels = torch.arange(3 * 20 * 30).view(3, 20, 30).remainder(251)
    assert torch.allclose(resized(pixels.to(dtype), 9), resized(pixels.float(), 9))


IMAGES = [
    torch.randint(0, 256, (3, 50, 40), dtype=torch.uint8),
    torch.randint(0, 65536, (1, 33, 60), dtype=torch.int32).to(torch.uint16),
    torch.rand(3, 70, 20),
]
BOXES = np.array(
    [
        [[0, 0, 50, 40], [3, 4, 20, 30], [10, 5, 30, 9]],
        [[10, 7, 33, 21], [0, 0, 33, 60], [0, 0, 70, 20]],
    ]
)


GAIN = np.tile([1 / 255, 1 / 65535, 1.0], (2, 1))


def filled(images: Images, size: int, lines: Lines) -> tuple[Tensor, Tensor]:
    """Crops as a GPU makes them, and as a CPU does."""
    cut = Cut(images, BOXES, size, lines)
    all_at_once, one_by_one = cut.crops(), cut.crops()
    cut.fill(all_at_once, list(transfer(cut.arrays(), torch.device("cpu"))))
    for rows in (slice(0, 6, 3), slice(1, 6, 3), slice(2, 6, 3)):
        cut.fill_rows(one_by_one[rows], rows)
    return all_at_once, one_by_one


@pytest.mark.parametrize("size", [7, 16, 48])
@pytest.mark.parametrize("largest", [1, 3 * 50 * 60, 10**9])  # stacks of one, two and three images
def test_a_gpu_and_a_cpu_cut_the_same_crops(size: int, largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigrun.data.images.LARGEST", 2 * largest)
    samples = Samples.pack(IMAGES, torch.arange(3), torch.zeros(3, dtype=torch.int64))
    images = Images(samples, 3, torch.device("cpu"))
    all_at_once, one_by_one = filled(images, size, Lines(GAIN, None))
    assert len(images.padded()) == {1: 3, 3 * 50 * 60: 2, 10**9: 1}[largest]
    assert all_at_once.shape == (6, 3, size, size)
    assert torch.allclose(all_at_once, one_by_one, atol=1e-5)
    assert torch.equal(all_at_once[1, 0], all_at_once[1, 2])  # a grey image is repeated
    for row in range(6):
        top, left, tall, wide = BOXES.reshape(6, 4)[row].tolist()
        image = IMAGES[row % 3].float() / (255, 65535, 1)[row % 3]
        expected = interpolate(image[:, top : top + tall, left : left + wide], size).clamp(0, 1)
        assert torch.allclose(one_by_one[row], expected.expand(3, -1, -1), atol=1e-4)


@pytest.mark.parametrize("size", [7, 48])
def test_both_ways_have_the_same_tone(size: int) -> None:
    images = Images(Samples.pack(IMAGES, torch.arange(3), torch.zeros(3, dtype=torch.int64)), 3, torch.device("cpu"))
    unclamped = filled(images, size, Lines(GAIN / 4, np.full((2, 3), 0.3)))[1] - 0.3
    gain = np.array([[1.0, 2.0, -1.0], [0.5, 1.5, 1.0]])
    shift = np.array([[0.1, 0.2, 0.9], [0.0, -0.2, 0.3]])
    a, b = (torch.from_numpy(values).flatten().float()[:, None, None, None] for values in (gain, shift))
    for crops in filled(images, size, Lines(GAIN / 4 * gain, shift)):
        assert torch.allclose(crops, (unclamped * a + b).clamp(0, 1), atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=12),
    largest=st.integers(1, 9000),
)
def test_images_are_cut_together_as_long_as_their_stack_is_small(sizes: list[tuple[int, int]], largest: int) -> None:
    found = chunks(np.array(sizes), largest)
    assert [i for some in found for i in range(len(sizes))[some]] == list(range(len(sizes)))
    for some in found:
        part = sizes[some]
        volume = len(part) * max(tall for tall, _ in part) * max(wide for _, wide in part)
        assert len(part) == 1 or volume <= largest
