"""Fixed images: the same ones every time, as the network is shown them, of the part that is looked at."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bigrun.data.dataset import Samples
from bigrun.data.faults import BadImageError
from bigrun.evaluation.features import features_of
from bigrun.evaluation.images import FixedImages, evenly_spread
from bigrun.evaluation.part import Part
from bigrun.evaluation.rank import rank_me
from bigrun.markers import hookimpl
from bigrun.run import Run
from bigrun.testing.runner import Runner, SyntheticImages

Floats = npt.NDArray[np.float64]


class At:
    """Looks at a run before its first step, and keeps what was seen."""

    def __init__(self, look: Callable[[Run], Any]) -> None:
        self.look = look
        self.seen: Any = None

    @hookimpl
    def on_start(self, run: Run) -> None:
        self.seen = self.look(run)


def looked(bigrunner: Runner, look: Callable[[Run], Any], dataset: Any = None, *others: Any, **tables: Any) -> Any:
    """What `look` sees in a run."""
    at = At(look)
    bigrunner.run(steps=1, dataset=dataset, companions=[at, *others], **tables).assert_finished()
    return at.seen


def crops_of(images: FixedImages) -> Tensor:
    return torch.cat([shown.crops for shown in images.batches(torch.device("cpu"), at_once=5)])


class Flat:
    """Images of one value, which is their index: exact to follow through a resize."""

    def __init__(self, values: list[int], dtype: torch.dtype = torch.uint8, channels: int = 3) -> None:
        self.values = values
        self.dtype = dtype
        self.channels = channels

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int, /) -> Tensor:
        return torch.full((self.channels, 40, 50), self.values[index], dtype=self.dtype)


@given(count=st.integers(0, 50), total=st.integers(0, 200))
def test_numbers_are_spread_evenly(count: int, total: int) -> None:
    numbers = evenly_spread(count, total)
    assert len(numbers) == min(count, total)
    assert numbers == sorted(set(numbers))
    assert all(0 <= number < total for number in numbers)
    if numbers:
        gaps = np.diff([-numbers[0] - 1, *numbers, 2 * total - numbers[-1] - 1])
        assert gaps.max() - gaps.min() <= 2


def test_the_same_images_come_every_time_and_nothing_is_drawn(bigrunner: Runner) -> None:
    def look(run: Run) -> tuple[Tensor, Tensor]:
        state = torch.get_rng_state()
        images = FixedImages.spread(run, 7)
        first, second = crops_of(images), crops_of(images)
        assert torch.equal(first, second)
        assert torch.equal(torch.get_rng_state(), state)
        plain = images.plain(first)
        return first, plain

    crops, plain = looked(bigrunner, look)
    assert crops.shape == (7, 3, 32, 32)
    assert 0 <= plain.min() <= plain.max() <= 1
    whole = SyntheticImages()[evenly_spread(7, 12)[0]].float() / 255
    assert torch.allclose(plain[0].mean(), whole.mean(), atol=0.02)


def test_a_side_is_cut_down_to_whole_patches(bigrunner: Runner) -> None:
    sides = looked(bigrunner, lambda run: [FixedImages.spread(run, 1, side).side_px for side in (3, 8, 31, 47, None)])
    assert sides == [8, 8, 24, 40, 32]


@pytest.mark.parametrize(("dtype", "highest"), [(torch.uint8, 255), (torch.uint16, 65535)])
def test_bits_and_one_channel(bigrunner: Runner, dtype: torch.dtype, highest: int) -> None:
    """Grey is repeated, and the highest value of the stored type is 1."""

    def look(run: Run) -> Tensor:
        images = FixedImages(run, range(3))
        return images.plain(crops_of(images))

    dataset = Flat([0, highest // 2, highest] * 4, dtype, channels=1)
    plain = looked(bigrunner, look, dataset)
    assert plain.shape == (3, 3, 32, 32)
    assert torch.allclose(plain.mean((1, 2, 3)), torch.tensor([0.0, 0.5, 1.0]), atol=0.004)


def test_a_network_of_one_channel_is_shown_one(bigrunner: Runner) -> None:
    tables = {
        "model": {"in_channels": 1},
        "views": {"mean": [0.5], "std": [0.25], "grayscale_probability": 0.0, "colour_probability": 0.0},
    }
    crops = looked(bigrunner, lambda run: crops_of(FixedImages(run, range(2))), Flat([255] * 12, channels=1), **tables)
    assert crops.shape == (2, 1, 32, 32)
    assert torch.allclose(crops, torch.full_like(crops, 2.0), atol=1e-4)


class Unreadable(Flat):
    """Some cannot be read, each in another way; training never comes to them."""

    def __getitem__(self, index: int, /) -> Tensor:
        match index:
            case 1:
                raise BadImageError("x.png", "truncated", "cut short")
            case 2:
                raise ZeroDivisionError("a decoder of a plugin")
            case 3:
                return torch.zeros(2, 40, 40, dtype=torch.uint8)  # of two channels
            case 4:
                return torch.zeros(40, 40)
        return super().__getitem__(index)


def test_what_cannot_be_read_is_left_out(bigrunner: Runner) -> None:
    def look(run: Run) -> list[list[int]]:
        return [shown.indices.tolist() for shown in FixedImages(run, range(7)).batches(torch.device("cpu"), at_once=3)]

    assert looked(bigrunner, look, Unreadable([9] * 12), data={"max_bad_fraction": 1.0}) == [[0], [5], [6]]


def test_what_cannot_be_read_is_known_until_it_can(bigrunner: Runner) -> None:
    def look(run: Run) -> list[set[int]]:
        images = FixedImages(run, range(7))
        before, _ = set(images.missing), list(images.samples())
        found = set(images.missing)
        images.part = attrs.evolve(images.part, dataset=Flat([9] * 12))
        assert images.read([2, 3]) is not None
        return [before, found, images.missing]

    assert looked(bigrunner, look, Unreadable([9] * 12), data={"max_bad_fraction": 1.0}) == [
        set(), {1, 2, 3, 4}, {1, 4},
    ]  # fmt: skip


class Tone:
    """Gain and shift are of the sample's index in the WHOLE data set."""

    def typical(self, samples: Samples) -> tuple[Floats, Floats]:
        return np.zeros(len(samples)), samples.indices.numpy() / 100

    def affine(self, samples: Samples, views: Any, seed: int) -> tuple[Floats, Floats]:
        gain, shift = self.typical(samples)
        return np.tile(gain + 1 / 255, (len(views), 1)), np.tile(shift * 0, (len(views), 1))


class WithTone:
    @hookimpl
    def build_tone(self) -> Any:
        return Tone()


class Patients(Flat):
    """One image a patient; knows sizes, and makes its own parts."""

    levels = ("patient",)

    def __init__(self, values: list[int]) -> None:
        super().__init__(values)

    def groups(self, level: str) -> npt.NDArray[np.object_]:
        return np.array([f"p{value}" for value in self.values], dtype=object)

    def describe(self, index: int) -> str:
        return f"image of p{self.values[index]}"

    def spacing_mm(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        sizes = np.array(self.values, dtype=np.float32)[indices]
        return np.stack([sizes, sizes, np.ones_like(sizes)], axis=1)

    def subset(self, indices: npt.NDArray[np.int64]) -> Patients:
        return Patients([self.values[index] for index in indices])


def split(folder: Path, groups: list[str]) -> str:
    path = folder / "split.json"
    document = {"format_version": 1, "rule": "list", "level": "patient", "validation_groups": groups}
    path.write_text(json.dumps(document), encoding="utf-8")
    return str(path)


def test_the_validation_part_with_its_tone_and_its_sizes(bigrunner: Runner, tmp_path: Path) -> None:
    """Numbers of samples are of the part; tone and size are of the sample that it is in the whole."""

    def look(run: Run) -> tuple[Part, Tensor, Tensor | None]:
        images = FixedImages.spread(run, 10)
        (shown,) = images.batches(torch.device("cpu"))
        return images.part, images.plain(shown.crops).mean((1, 2, 3)), shown.spacing_mm

    tables = {"data": {"split": split(tmp_path, ["p13", "p17"])}, "model": {"scale_embedding": True}}
    part, means, spacing = looked(bigrunner, look, Patients(list(range(10, 22))), WithTone(), **tables)
    assert part.is_validation
    assert [part.name(index) for index in range(2)] == ["image of p13", "image of p17"]
    assert torch.allclose(means, torch.tensor([0.03, 0.07]), atol=1e-3)  # index 3 and 7 of the whole
    assert spacing is not None
    # The middle square of 40 x 50 pixels becomes 32 x 32.
    assert torch.allclose(spacing[:, 1], torch.tensor([13.0, 17.0]) * 40 / 32, atol=1e-4)
    assert torch.equal(spacing[:, 2], torch.ones(2))


def test_without_a_split_the_training_data_is_looked_at(bigrunner: Runner) -> None:
    part = looked(bigrunner, Part.of, Patients(list(range(12))))
    assert not part.is_validation
    assert len(part.dataset) == 12


def test_features_do_not_depend_on_the_size_of_batches(bigrunner: Runner) -> None:
    def look(run: Run) -> tuple[Tensor, bool]:
        images = FixedImages.spread(run, 6)
        with run.objective.evaluation() as backbone:
            together = torch.cat([features.cls for _, features in features_of(run, backbone, images)])
            alone = [backbone(shown.crops).cls for shown in images.batches(run.device, at_once=1)]
        assert torch.allclose(together, torch.cat(alone), atol=1e-5)
        return together, together.requires_grad

    cls, has_gradient = looked(bigrunner, look)
    assert cls.shape == (6, 32)
    assert not has_gradient


def test_rank_me_counts_directions() -> None:
    torch.manual_seed(0)
    assert rank_me(torch.eye(8).repeat(20, 1)) == pytest.approx(8, rel=1e-3)
    assert rank_me(torch.ones(50, 8) + 1e-6 * torch.randn(50, 8)) == pytest.approx(1, abs=0.01)
    assert rank_me(torch.randn(4, 64)) <= 4.01
    assert math.isnan(rank_me(torch.full((4, 8), math.nan)))
