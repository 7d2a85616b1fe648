"""Do the stored values look like Hounsfield units of a body in air?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs
import numpy as np
import numpy.typing as npt

from bigrun.data.faults import BadImageError
from bigrun_ct.slices import alike

if TYPE_CHECKING:
    from bigrun_ct.dataset import SliceDataset

__all__ = ["HuRange", "hu_ranges"]

Floats = npt.NDArray[np.float64]

AIR_HU = (-1100.0, -800.0)
HIGHEST_HU = 5000.0
SLICES = 16
KNOWN = ((0.1, 32768.0), (1.0, 32768.0), (1.0, 1024.0), (1.0, 1000.0), (1.0, 0.0))
"""Slopes and offsets that are in use."""


@attrs.frozen
class HuRange:
    """What was seen of one data set."""

    dataset: str
    slices: int
    slope: float
    offset: float
    stored: tuple[float, float]
    """1st and 99.9th percentile of the values in the files."""
    other_sizes: int
    """Neighbours among the looked-at slices that have another size."""

    @property
    def name(self) -> str:
        """For messages."""
        return f"data set {self.dataset!r}" if self.dataset else "the slices"

    @property
    def is_plausible(self) -> bool:
        """Whether the 1st percentile is that of air."""
        low, _ = in_hu(self.stored, self.slope, self.offset)
        return AIR_HU[0] <= low <= AIR_HU[1]

    def message(self) -> str:
        """What was seen, and what would fit."""
        low, high = in_hu(self.stored, self.slope, self.offset)
        table = f"plugins.ct-slices.datasets.{self.dataset}" if self.dataset else "plugins.ct-slices"
        fitting = [pair for pair in KNOWN if plausible(self.stored, *pair)]
        advice = " or ".join(f"hu_slope = {slope:g}, hu_offset = {offset:g}" for slope, offset in fitting)
        return (
            f"{self.name}: the 1st percentile of {self.slices} slices is {low:.0f} HU, expected {AIR_HU[0]:.0f} to "
            f"{AIR_HU[1]:.0f} as of a body in air (99.9th: {high:.0f} HU; stored values {self.stored[0]:.0f} to "
            f"{self.stored[1]:.0f}, read with hu_slope = {self.slope:g}, hu_offset = {self.offset:g}). "
            + (f"These would fit: {advice}. " if advice else "None of the usual slopes and offsets fits. ")
            + f"Set them in [{table}], or check_hu = false there if the values are as they should be"
        )


def hu_ranges(dataset: SliceDataset) -> Iterator[HuRange]:
    """Look at a few slices of every data set that is to be looked at, always the same ones.

    Slices that cannot be read are left to those who count them.
    """
    for number, name in enumerate(dataset.series.datasets):
        own = dataset.config.datasets.get(name)
        wanted = dataset.config.check_hu if own is None or own.check_hu is None else own.check_hu
        found = look_at(dataset, number) if wanted else None
        if found is not None:
            yield found


def look_at(dataset: SliceDataset, number: int) -> HuRange | None:
    """None when none of the slices can be read."""
    files = dataset.series.order[dataset.series.dataset[dataset.series.order] == number]
    chosen = files[np.unique(np.linspace(0, len(files) - 1, min(SLICES, len(files))).round().astype(np.int64))]
    values, other_sizes = [], 0
    for file in chosen.tolist():
        try:
            pixels = dataset.slice(file)
            near = [dataset.slice(n) for n in set(dataset.series.reach(file, dataset.channels // 2)) - {file}]
        except BadImageError:
            continue
        values.append(pixels.numpy().ravel()[::7].astype(np.float64))
        other_sizes += sum(not alike(pixels, neighbour) for neighbour in near)
    if not values:
        return None
    low, high = np.percentile(np.concatenate(values), [1, 99.9]).tolist()
    slope, offset = float(dataset.slope[number]), float(dataset.offset[number])
    return HuRange(dataset.series.datasets[number], len(values), slope, offset, (low, high), other_sizes)


def in_hu(stored: tuple[float, float], slope: float, offset: float) -> tuple[float, float]:
    """The two percentiles in HU; a negative slope turns them round, which is near enough for a message."""
    low, high = ((value - offset) * slope for value in stored)
    return min(low, high), max(low, high)


def plausible(stored: tuple[float, float], slope: float, offset: float) -> bool:
    low, high = in_hu(stored, slope, offset)
    return AIR_HU[0] <= low <= AIR_HU[1] and high <= HIGHEST_HU
