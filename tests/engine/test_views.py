from __future__ import annotations

import functools

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bigrun.data.channels import check_channels
from bigrun.data.dataset import Batch, Samples
from bigrun.data.distortions import DRAWS, Choices, Distortions
from bigrun.data.draws import uniforms
from bigrun.data.transfer import transfer
from bigrun.data.views import ExtraView, Views
from bigrun.errors import DataError, UsageError
from bigrun.sections import Views as Section

CPU = torch.device("cpu")
PLAIN = Section(
    global_size_px=32,
    local_size_px=16,
    local_crops=3,
    flip_probability=0,
    colour_probability=0,
    grayscale_probability=0,
    blur_probability=(0, 0, 0),
    solarise_probability=0,
    mean=(0, 0, 0),
    std=(1, 1, 1),
)
WHOLE = attrs.evolve(
    PLAIN,
    global_size_px=8,
    local_size_px=8,
    local_crops=2,
    global_scale=(1, 1),
    local_scale=(1, 1),
    aspect_ratio=(1, 1),
)
DISTORTED = Section(global_size_px=32, local_size_px=16, local_crops=3)


def pack(images: list[Tensor], first: int = 0, epoch: int = 0) -> Samples:
    count = len(images)
    return Samples.pack(images, torch.arange(first, first + count), torch.full((count,), epoch))


def noise(height: int = 40, width: int = 48, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def ramp(height: int, width: int) -> Tensor:
    """Channels: x / width, y / height, a smooth wave. A crop of it tells where it was cut."""
    y, x = ((torch.arange(side) + 0.5) / side for side in (height, width))
    wave = 0.5 + 0.25 * torch.sin(7 * x) + 0.25 * torch.cos(5 * y)[:, None]
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width), wave])


def boxes_of(crops: Tensor, height: int, width: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(n, 4) top, left, height, width in pixels: the straight line through the middle of each ramp."""
    size = crops.shape[-1]
    inner = np.arange(size // 4, size - size // 4)
    lines = []
    for channel, side in ((1, height), (0, width)):
        profile = crops[:, channel].mean(dim=2 if channel == 1 else 1)[:, inner].double().numpy() * side
        slope, start = np.polyfit(inner + 0.5, profile.T, 1)
        lines.append((start, slope * size))
    (top, tall), (left, wide) = lines
    return np.stack([top, left, tall, wide], axis=1)


def resized(crops: Tensor, side: int) -> Tensor:
    return torch.nn.functional.interpolate(crops, size=(side, side), mode="bicubic", antialias=True)


def correlations(ours: Tensor, theirs: Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of each pair of crops, (n,)."""
    pairs = zip(ours.flatten(1), theirs.flatten(1), strict=True)
    return np.array([np.corrcoef(one, other)[0, 1] for one, other in pairs])


def halves(batch: Batch) -> tuple[Tensor, Tensor]:
    assert batch.local_crops is not None
    return batch.global_crops, batch.local_crops


def test_t20_shapes_types_and_range() -> None:
    images = [noise(40, 48), noise(64, 33, seed=1)]
    batch = Views(DISTORTED, 3, seed=1, extra={"teacher": ExtraView(1.5)})(pack(images, first=5, epoch=2), CPU, 1)
    crops = {(4, 32): batch.global_crops, (6, 16): halves(batch)[1], (4, 48): batch.extra["teacher"]}
    for (rows, size), tensor in crops.items():
        assert tensor.shape == (rows, 3, size, size)
        assert tensor.dtype == torch.float32
        assert tensor.isfinite().all()
        pixels = tensor * torch.tensor(DISTORTED.std).view(3, 1, 1) + torch.tensor(DISTORTED.mean).view(3, 1, 1)
        assert -1e-5 < pixels.min() < 0.1
        assert 0.9 < pixels.max() < 1 + 1e-5
    assert (batch.size, batch.indices.tolist(), batch.epochs.tolist()) == (2, [5, 6], [2, 2])


def test_without_local_crops_there_are_none() -> None:
    assert Views(attrs.evolve(PLAIN, local_crops=0), 3, 0)(pack([noise()]), CPU, 1).local_crops is None


def test_boxes_have_the_configured_area_and_aspect() -> None:
    height, width = 96, 128
    image = ramp(height, width)
    section = attrs.evolve(PLAIN, local_crops=4, local_size_px=32)
    crops = halves(Views(section, 3, seed=0)(pack([image] * 350), CPU, 1))
    for tensor, (low, high) in zip(crops, (section.global_scale, section.local_scale), strict=True):
        boxes = boxes_of(tensor, height, width)
        assert np.abs(boxes - np.rint(boxes)).max() < 0.2  # whole pixels
        top, left, tall, wide = np.rint(boxes).T
        assert ((top >= 0) & (left >= 0) & (top + tall <= height) & (left + wide <= width)).all()
        area, aspect = tall * wide / (height * width), wide / tall
        assert low - 0.01 < area.min() < low + 0.02
        assert high - 0.05 < area.max() < high + 0.01
        assert 0.74 < aspect.min() < 0.77
        assert 1.3 < aspect.max() < 1.35
        inside = (height - tall > 20) & (width - wide > 20)
        for place in (top / (height - tall + 1e-9), left / (width - wide + 1e-9)):
            assert abs(place[inside].mean() - 0.5) < 5 * 0.29 / np.sqrt(inside.sum())
    # Small boxes always fit, so their area is uniform and their aspect log-uniform; large ones are biased to fit.
    assert abs(area.mean() - (low + high) / 2) < 5 * (high - low) / np.sqrt(12 * 1400)
    assert abs(np.log(aspect).mean()) < 5 * 2 * np.log(4 / 3) / np.sqrt(12 * 1400)
    assert abs(np.log(aspect).std() - 2 * np.log(4 / 3) / np.sqrt(12)) < 0.01


def test_a_crop_is_the_bicubic_resize_of_its_box_as_in_pillow() -> None:
    height, width = 120, 150
    image = ramp(height, width)
    crops = halves(Views(PLAIN, 3, seed=4)(pack([image] * 8), CPU, 1))
    picture = Image.fromarray(image[2].numpy())
    for tensor in crops:
        size = tensor.shape[-1]
        for crop, (top, left, tall, wide) in zip(tensor, np.rint(boxes_of(tensor, height, width)), strict=True):
            expected = picture.crop((left, top, left + wide, top + tall)).resize((size, size), Image.Resampling.BICUBIC)
            error = np.mean((crop[2].numpy() - np.asarray(expected)) ** 2)
            assert -10 * np.log10(error) > 38  # dB


def test_t20_an_extra_view_shows_the_boxes_and_flips_of_the_global_crops() -> None:
    section = attrs.evolve(PLAIN, flip_probability=0.5)
    image = torch.nn.functional.interpolate(noise(12, 12)[None].float(), size=(128, 128), mode="bicubic")[0]
    batch = Views(section, 3, seed=0, extra={"large": ExtraView(2)})(pack([image.clamp(0, 255).byte()] * 6), CPU, 1)
    small = torch.nn.functional.avg_pool2d(batch.extra["large"], 2)
    assert correlations(small, batch.global_crops).min() > 0.99


def test_an_extra_view_is_normalised_and_otherwise_undistorted() -> None:
    extra = {"same": ExtraView()}
    plain = Views(attrs.evolve(PLAIN, flip_probability=0.5), 3, 0, extra)(pack([noise()] * 4), CPU, 1)
    distorted = Views(DISTORTED, 3, 0, extra)(pack([noise()] * 4), CPU, 1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (DISTORTED.mean, DISTORTED.std))
    assert torch.equal(plain.extra["same"], plain.global_crops)
    assert torch.allclose(distorted.extra["same"] * std + mean, plain.extra["same"], atol=1e-6)
    assert not torch.allclose(distorted.global_crops * std + mean, plain.global_crops, atol=0.01)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5, 2.0])
def test_a_distorted_extra_view_is_the_global_crop_at_another_scale(factor: float) -> None:
    section = attrs.evolve(DISTORTED, colour_probability=1, blur_probability=(1, 1, 1), solarise_probability=0)
    image = torch.nn.functional.interpolate(noise(8, 8)[None].float(), size=(128, 128), mode="bicubic")[0]
    extra = {"scaled": ExtraView(factor, distorted=True), "plain": ExtraView(factor)}
    batch = Views(section, 3, seed=0, extra=extra)(pack([image.clamp(0, 255).byte()] * 6), CPU, 1)
    if factor == 1:
        assert torch.equal(batch.extra["scaled"], batch.global_crops)
    side = round(32 * min(factor, 1))
    theirs, scaled, plain = (resized(crops, side) for crops in (batch.global_crops, *batch.extra.values()))
    assert correlations(scaled, theirs).min() > 0.99
    assert (scaled - theirs).abs().mean() < 0.05  # of the photographs' standard deviation
    assert correlations(plain, theirs).min() < 0.99  # or the distortions did nothing here


def test_an_extra_view_has_a_whole_side() -> None:
    Views(PLAIN, 3, seed=0, extra={"x": ExtraView(1.25)})
    with pytest.raises(
        UsageError, match=r"an extra view of 1.3 x 32 pixels has a side of 41.6, expected a whole number"
    ):
        Views(PLAIN, 3, seed=0, extra={"x": ExtraView(1.3)})


def test_t20_choices_are_as_frequent_as_configured_in_2000_draws() -> None:
    draws = uniforms(3, "views", 0, np.arange(2000), np.arange(3)[:, None], count=DRAWS)
    section = Section(flip_probability=0.3)
    choices = Choices.of(section, draws, section.blur_probability, [0, section.solarise_probability, 0])
    expected = {
        "flip": (0.3, 0.3, 0.3),
        "colour": (0.8, 0.8, 0.8),
        "grayscale": (0.2, 0.2, 0.2),
        "blur": (0.0, 0.9, 0.5),  # what the published models had [spec 2.1]
        "solarise": (0.0, 0.2, 0.0),
    }
    assert choices.chosen.keys() == expected.keys()
    for name, probabilities in expected.items():
        for count, p in zip(choices.chosen[name].reshape(3, 2000).sum(axis=1), probabilities, strict=True):
            assert abs(count - 2000 * p) <= 3.3 * np.sqrt(2000 * p * (1 - p)), name  # one right count in 1000 is not
    together = np.corrcoef([which for name, which in choices.chosen.items() if name not in ("blur", "solarise")])
    assert np.abs(together - np.eye(3)).max() < 4 / np.sqrt(6000)


def test_strengths_fill_their_ranges_and_crops_without_jitter_have_none() -> None:
    draws = uniforms(3, "views", 0, np.arange(2000), np.arange(3)[:, None], count=DRAWS)
    choices = Choices.of(Section(), draws, (0, 0.9, 0.5), (0, 0, 0))
    jittered = choices.chosen["colour"]
    assert (choices.strengths[~jittered, :4] == [1, 1, 1, 0]).all()
    ranges = ((0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1), (0.1, 2.0))
    for k, (low, high) in enumerate(ranges):
        values = np.sort(choices.strengths[jittered, k])
        share = (values - low) / (high - low)
        assert np.abs(share - (np.arange(len(values)) + 0.5) / len(values)).max() < 1.95 / np.sqrt(len(values))


@functools.cache
def five_hundred(section: Section) -> tuple[Tensor, Tensor]:
    """Crops of so many equal images."""
    return halves(Views(section, 3, seed=9)(pack([noise(8, 8)] * 500), CPU, 1))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"flip_probability": 0.5}, (0.5, 0.5, 0.5), marks=pytest.mark.slow),
        ({"colour_probability": 0.8}, (0.8, 0.8, 0.8)),
        pytest.param({"grayscale_probability": 0.2}, (0.2, 0.2, 0.2), marks=pytest.mark.slow),
        ({"blur_probability": (0.0, 0.9, 0.5), "blur_sigma": (0.5, 2.0)}, (0.0, 0.9, 0.5)),
        pytest.param({"solarise_probability": 0.2}, (0.0, 0.2, 0.0), marks=pytest.mark.slow),
    ],
)
def test_a_distortion_is_as_frequent_as_configured(options: dict[str, object], expected: tuple[float, ...]) -> None:
    changed = five_hundred(attrs.evolve(WHOLE, **options))
    pairs = zip(five_hundred(WHOLE), changed, strict=True)
    differs = [((a - b).abs().amax(dim=(1, 2, 3)) > 1e-4).view(2, 500) for a, b in pairs]
    rates = (differs[0][0], differs[0][1], differs[1].flatten())
    for rate, probability in zip(rates, expected, strict=True):
        assert abs(rate.float().mean() - probability) <= 5 * np.sqrt(probability * (1 - probability) / len(rate))


def test_distortions_do_what_they_are_named() -> None:
    image = noise(8, 8)
    whole = image.float() / 255

    def first(**options: object) -> Tensor:
        return Views(attrs.evolve(WHOLE, **options), 3, seed=0)(pack([image]), CPU, 1).global_crops[1]

    assert torch.allclose(first(), whole, atol=1e-6)
    assert torch.allclose(first(flip_probability=1), whole.flip(-1), atol=1e-6)
    assert torch.allclose(first(solarise_probability=1), torch.where(whole > 0.5, 1 - whole, whole), atol=1e-6)
    grey = first(grayscale_probability=1)
    assert torch.allclose(grey, grey[:1].expand(3, -1, -1))
    assert first(blur_probability=(0, 1, 0), blur_sigma=(2, 2)).std() < 0.5 * whole.std()
    assert torch.allclose(first(colour_probability=1, brightness=0, contrast=0, saturation=0, hue=0), whole, atol=1e-5)


def test_a_view_depends_on_seed_epoch_index_and_nothing_else() -> None:
    images = [noise(40, 48, seed=k) for k in range(4)]
    views = Views(DISTORTED, 3, seed=0, extra={"x": ExtraView(0.625)})
    together = views(pack(images, first=10, epoch=1), CPU, 1)
    alone = views(pack(images[2:3], first=12, epoch=1), CPU, 1)
    for tensor, single in (
        (together.global_crops, alone.global_crops),
        (halves(together)[1], halves(alone)[1]),
        (together.extra["x"], alone.extra["x"]),
    ):
        assert torch.equal(tensor[2::4], single)
    for other in (
        views(pack(images[2:3], first=12, epoch=2), CPU, 1),
        views(pack(images[2:3], first=13, epoch=1), CPU, 1),
        Views(DISTORTED, 3, seed=1)(pack(images[2:3], first=12, epoch=1), CPU, 1),
    ):
        assert not torch.allclose(other.global_crops, alone.global_crops, atol=0.1)


@pytest.mark.parametrize("size", [14, 42, 98])  # no multiples of a vector's length
def test_the_division_into_micro_batches_changes_no_bit(size: int) -> None:
    images = [noise(50 + 7 * k, 90 - 5 * k, seed=k) for k in range(4)]
    section = Section(global_size_px=size, local_size_px=14, local_crops=3)
    views = Views(section, 3, seed=0, extra={"x": ExtraView(1.5, distorted=True)})
    whole = views(pack(images, first=10), CPU, 1)
    parts = [views(pack(images[k : k + 2], first=10 + k), CPU, 1) for k in (0, 2)]
    for name in ("global_crops", "local_crops"):
        together = torch.stack([getattr(part, name).unflatten(0, (-1, 2)) for part in parts], dim=1)  # V, part, image
        assert torch.equal(getattr(whole, name), together.flatten(0, 2))
    together = torch.stack([part.extra["x"].unflatten(0, (2, 2)) for part in parts], dim=1)
    assert torch.equal(whole.extra["x"], together.flatten(0, 2))


def test_crops_that_are_distorted_together_come_out_as_crops_that_are_alone() -> None:
    # A GPU distorts all crops at once, a CPU those of one image: the same choices, the same result.
    draws = uniforms(3, "views", 0, np.arange(4), np.arange(3)[:, None], count=DRAWS)
    choices = Choices.of(Section(), draws, (0.0, 0.9, 0.5), (0, 0.5, 0))
    assert 0 < choices.chosen["blur"].sum() < 12
    crops = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    together, alone = crops.clone(), crops.clone()
    Distortions.of(choices, transfer(choices.arrays(), CPU)).apply(together, None)
    for row in (slice(k, k + 1) for k in range(12)):
        Distortions.of(choices[row], transfer(choices[row].arrays(), CPU)).apply(alone[row], None)
    assert torch.allclose(together, alone, atol=1e-6)
    assert not torch.allclose(together, crops, atol=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("shared", [False, True])
def test_a_gpu_makes_the_views_of_a_cpu(shared: bool) -> None:
    images = [noise(60, 70), noise(200, 90, seed=1)[:1], noise(33, 150, seed=2).float() / 255]
    section = attrs.evolve(DISTORTED, share_colour=shared)
    views = Views(section, 3, seed=0, extra={"x": ExtraView(1.5), "y": ExtraView(0.5, distorted=True)})
    ours, theirs = (views(pack(images), torch.device(device), 1) for device in ("cpu", "cuda"))
    for one, other in zip(
        [*halves(ours), *ours.extra.values()], [*halves(theirs), *theirs.extra.values()], strict=True
    ):
        # A value that rounding moves across the threshold of the solarisation is inverted.
        assert ((one - other.cpu()).abs() > 1e-3).float().mean() < 1e-3


def test_arrays_travel_together() -> None:
    arrays = [np.array([[0.5, 2.0**-20]]), np.array([], dtype=np.int64), np.arange(6).reshape(2, 3)]
    (reals, _), (_, nothing), (_, whole) = transfer(arrays, CPU)
    assert reals.tolist() == [[0.5, 2.0**-20]]
    assert reals.dtype == torch.float32
    assert nothing.shape == (0,)
    assert torch.equal(whole, torch.arange(6).view(2, 3))


def test_threads_change_no_bit() -> None:
    samples, threads = pack([noise(60, 70, seed=k) for k in range(2)]), torch.get_num_threads()
    alone = Views(DISTORTED, 3, seed=0)(samples, CPU, 1)
    torch.set_num_threads(3)
    try:
        together = Views(DISTORTED, 3, seed=0)(samples, CPU, 1)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone.global_crops, together.global_crops)
    assert torch.equal(halves(alone)[1], halves(together)[1])


def test_global_state_is_neither_used_nor_changed() -> None:
    views, samples = Views(DISTORTED, 3, seed=0), pack([noise()])
    before = torch.get_rng_state()
    first = views(samples, CPU, 1)
    torch.manual_seed(123)
    with torch.autocast("cpu", torch.bfloat16):
        second = views(samples, CPU, 1)
    torch.set_rng_state(before)
    assert torch.equal(first.global_crops, second.global_crops)
    assert torch.equal(torch.get_rng_state(), before)
    assert not first.global_crops.requires_grad


def test_all_pixel_types_give_the_same_view() -> None:
    eight = noise()
    same = [eight, (eight.to(torch.int32) * 257).to(torch.uint16), eight.float() / 255]
    views = Views(DISTORTED, 3, seed=0)
    first, *others = (views(pack([image]), CPU, 1).global_crops for image in same)
    for other in others:
        assert torch.allclose(first, other, atol=1e-5)


def test_sixteen_bits_are_kept() -> None:
    faint = torch.arange(64 * 64, dtype=torch.int32).view(1, 64, 64).to(torch.uint16)  # 6 % of the range
    crops = Views(attrs.evolve(PLAIN, mean=(0.0,), std=(1.0,)), 1, seed=0)(pack([faint]), CPU, 1).global_crops
    assert len(crops.unique()) > 256


def test_grey_is_repeated_to_the_channels_of_the_model() -> None:
    crops = Views(PLAIN, 3, seed=0)(pack([noise()[:1], noise()]), CPU, 1).global_crops
    assert torch.equal(crops[0, 0], crops[0, 2])
    assert not torch.equal(crops[1, 0], crops[1, 2])
    with pytest.raises(DataError, match=r"image 7 of the data set: the image has 3 channels, expected 2, or 1"):
        Views(attrs.evolve(PLAIN, mean=(0, 0), std=(1, 1)), 2, seed=0)(pack([noise()], first=7), CPU, 1)


def test_more_channels_than_colours_are_cut_alike() -> None:
    section = attrs.evolve(PLAIN, mean=(0.0,) * 5, std=(1.0,) * 5, blur_probability=(1, 1, 1), flip_probability=0.5)
    crops = Views(section, 5, seed=0)(pack([noise()[[0, 1, 2, 0, 1]]]), CPU, 1).global_crops
    assert torch.allclose(crops[:, :2], crops[:, 3:], atol=1e-6)


def test_options_that_do_not_fit_the_channels_are_named() -> None:
    assert list(check_channels(Section(), 3)) == []
    assert [option for option, _ in check_channels(Section(), 1)] == [
        "mean",
        "std",
        "colour_probability",
        "grayscale_probability",
    ]
    grey = Section(mean=(0.5,), std=(0.25,), colour_probability=0, grayscale_probability=0)
    assert list(check_channels(grey, 1)) == []
    assert dict(check_channels(grey, 3))["mean"] == "expected 3 values (model.in_channels), got 1: [0.5]"
