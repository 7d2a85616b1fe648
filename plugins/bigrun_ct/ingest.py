"""Do the stored values look like Hounsfield units of a body in air?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np
import numpy.typing as npt

from bigrun.data.faults import BadImageError

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun_ct.dataset import SliceDataset

__all__ = ["HuCheck", "Look", "hu_checks"]

Floats = npt.NDArray[np.float64]

AIR_HU = (-1100.0, -800.0)
TISSUE_HU = 300.0
"""90th percentile of a slice with air around or in the body, at most: contrast and bone are less than a tenth of it."""
HIGHEST_HU = 5000.0
LOWEST_HU = -1500.0
"""Less is no air, however noisy."""
SLICES = 16
KNOWN = ((0.1, 32768.0), (1.0, 32768.0), (1.0, 1024.0), (1.0, 1000.0))
"""Slopes and offsets that are in use."""


@attrs.frozen
class Look:
    """What was seen of one slice."""

    path: str
    stored: tuple[float, float, float]
    """1st, 90th and 99.9th percentile of the values in the file."""

    def is_air(self, slope: float, offset: float) -> bool:
        """Whether the 1st percentile is that of air."""
        low, _, _ = in_hu(self.stored, slope, offset)
        return AIR_HU[0] <= low <= AIR_HU[1]

    @property
    def fitting(self) -> list[tuple[float, float]]:
        """Slopes and offsets with which it is a body in air, of those that are in use."""
        return [known for known in KNOWN if self.fits(*known)]

    def fits(self, slope: float, offset: float) -> bool:
        """Whether it is a body in air. Fat and organs without air, ten times too bright, are none: at a slope that is
        wrong by ten fat has -1000 HU, and then organs have 400."""
        _, tissue, high = in_hu(self.stored, slope, offset)
        return self.is_air(slope, offset) and tissue <= TISSUE_HU and high <= HIGHEST_HU


@attrs.frozen
class HuCheck:
    """What was seen of one data set.

    A slice without air, as in a small field of view, says nothing: it is neither right nor wrong.
    """

    dataset: str
    slope: float
    offset: float
    looks: Sequence[Look]
    other_sizes: int
    """Neighbours of these slices that have another size."""

    @property
    def name(self) -> str:
        """For messages."""
        return f"data set {self.dataset!r}" if self.dataset else "the slices"

    @property
    def right(self) -> list[Look]:
        """Slices with air where it should be."""
        return [look for look in self.looks if look.is_air(self.slope, self.offset)]

    @property
    def wrong(self) -> list[Look]:
        """Slices with values far below air, and those that are a body in air in another encoding that is in use; all,
        if no slice is right."""
        return [look for look in self.looks if self._is_wrong(look)] if self.right else list(self.looks)

    def _is_wrong(self, look: Look) -> bool:
        low, _, _ = in_hu(look.stored, self.slope, self.offset)
        return low < LOWEST_HU or (low > AIR_HU[1] and bool(look.fitting))

    def message(self) -> str:
        """What was seen, and what would fit."""
        telling = [look for look in self.wrong if look.fitting] or self.wrong
        example = telling[0]
        low, _, high = in_hu(example.stored, self.slope, self.offset)
        common = [pair for pair in example.fitting if all(pair in look.fitting for look in telling)]
        advice = " or ".join(f"hu_slope = {slope:g}, hu_offset = {offset:g}" for slope, offset in common)
        table = f"plugins.ct-slices.datasets.{self.dataset}" if self.dataset else "plugins.ct-slices"
        where = f"Set them in [{table}]" if not self.right else (
            f"The others are right or show no air: give the series of these {len(self.wrong)} a name of their own in "
            "the column `dataset` of index.csv, and set them in [plugins.ct-slices.datasets.NAME]"
        )  # fmt: skip
        return (
            f"{self.name}: {len(self.wrong)} of {len(self.looks)} slices that were looked at do not have the values of "
            f"a body in air: the 1st percentile of {example.path} is {low:.0f} HU, expected {AIR_HU[0]:.0f} to "
            f"{AIR_HU[1]:.0f} (99.9th: {high:.0f} HU; stored values {example.stored[0]:.0f} to "
            f"{example.stored[2]:.0f}, read with hu_slope = {self.slope:g}, hu_offset = {self.offset:g}). "
            + (f"These would fit: {advice}. " if advice else "None of the usual slopes and offsets fits. ")
            + f"{where}; or check_hu = false in [{table}] if the values are as they should be"
        )


def hu_checks(dataset: SliceDataset) -> Iterator[HuCheck]:
    """Look at a few slices of every data set that is to be looked at, always the same ones.

    Slices that cannot be read are left to those who count them.
    """
    for number, name in enumerate(dataset.series.datasets):
        own = dataset.config.datasets.get(name)
        wanted = dataset.config.check_hu if own is None or own.check_hu is None else own.check_hu
        found = look_at(dataset, number) if wanted else None
        if found is not None:
            yield found


def look_at(dataset: SliceDataset, number: int) -> HuCheck | None:
    """None when none of the slices can be read."""
    files = dataset.series.order[dataset.series.dataset[dataset.series.order] == number]
    chosen = files[np.unique(np.linspace(0, len(files) - 1, min(SLICES, len(files))).round().astype(np.int64))]
    looks, other_sizes = [], 0
    for file in chosen.tolist():
        pixels = readable(dataset, file)
        if pixels is None:
            continue
        near = [readable(dataset, n) for n in set(dataset.series.reach(file, dataset.channels // 2)) - {file}]
        other_sizes += sum(neighbour is not None and neighbour.shape != pixels.shape for neighbour in near)
        low, tissue, high = np.percentile(pixels.numpy().ravel()[::7], [1, 90, 99.9]).tolist()
        looks.append(Look(dataset.files.path(file), (low, tissue, high)))
    if not looks:
        return None
    slope, offset = float(dataset.slope[number]), float(dataset.offset[number])
    return HuCheck(dataset.series.datasets[number], slope, offset, looks, other_sizes)


def readable(dataset: SliceDataset, file: int) -> Tensor | None:
    try:
        return dataset.slice(file)
    except BadImageError:
        return None


def in_hu(stored: tuple[float, float, float], slope: float, offset: float) -> tuple[float, float, float]:
    """The percentiles in HU, ascending; a negative slope turns them round, which is near enough for a message."""
    low, middle, high = ((value - offset) * slope for value in stored)
    return min(low, high), middle, max(low, high)
