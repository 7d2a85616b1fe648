"""What takes the place of images: a data set that is not looked at, and crops of the right shapes without values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from bigrun.check import NoImages
from bigrun.data.dataset import Batch, Samples
from bigrun.markers import hookimpl
from bigrun.planner.memory import INPUTS

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset
    from bigrun.data.views import Views
    from bigrun.planner.live_bytes import LiveBytes
    from bigrun.run import Run

__all__ = ["NoDataSet", "StandInViews", "stand_in_samples"]


class NoDataSet:
    """A companion that answers before anybody looks for images."""

    @hookimpl(tryfirst=True)
    def build_dataset(self, run: Run) -> Dataset:
        return NoImages()


class StandInViews:
    """The crops that `Views` would make of a micro-batch; where steps differ in size, the largest."""

    def __init__(self, views: Views, live: LiveBytes, *, with_spacing: bool) -> None:
        self.views = views
        self.live = live
        self.with_spacing = with_spacing

    def sizes_px(self, step: int) -> tuple[int, int]:
        """Sides of the global and of the local crops."""
        section = self.views.section

        def pixels(pair: tuple[int, int]) -> int:
            return section.global_crops * pair[0] ** 2 + section.local_crops * pair[1] ** 2

        return max(section.pairs, key=pixels)

    def __call__(self, samples: Samples, device: torch.device, step: int) -> Batch:
        section, channels, images = self.views.section, self.views.channels, len(samples.indices)
        near_px, far_px = self.sizes_px(step)
        near, far = section.global_crops * images, section.local_crops * images

        def spacing(crops: int) -> torch.Tensor | None:
            return torch.empty(crops, 3, device=device) if self.with_spacing and crops else None

        def crops(count: int, side_px: int) -> torch.Tensor:
            return torch.empty(count, channels, side_px, side_px, device=device)

        with self.live.during(INPUTS):
            return Batch(
                crops(near, near_px),
                crops(far, far_px) if far else None,
                {name: crops(near, view.size_px(near_px)) for name, view in self.views.extra.items()},
                samples.indices,
                samples.epochs,
                global_spacing_mm=spacing(near),
                local_spacing_mm=spacing(far),
            )


def stand_in_samples(images: int) -> Iterator[Samples]:
    """Micro-batches without pixels, for ever; to be made outside of `FakeTensorMode`."""
    nothing = torch.empty(0, dtype=torch.uint8)
    return itertools.repeat(Samples(nothing, (), host_numbers(images), host_numbers(images)))


def host_numbers(count: int) -> torch.Tensor:
    """0, 1, ...: (count,) int64, with values, as numbers of images are on the host in every run. Inside of
    `FakeTensorMode` torch's own `numpy()` would return whatever is in the memory behind it."""
    numbers = torch.arange(count)
    values = numbers.numpy()
    numbers.numpy = lambda: values  # type: ignore[assignment, misc]
    return numbers
