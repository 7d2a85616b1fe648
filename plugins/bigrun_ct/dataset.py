"""CT slices with their neighbours as channels."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bigrun.data.check import Finding, Intensity
from bigrun.data.faults import BadImageError
from bigrun.data.files import Files
from bigrun.data.group_order import GroupOrder
from bigrun.data.split import file_groups
from bigrun_ct.config import CtConfig
from bigrun_ct.ingest import hu_checks
from bigrun_ct.order import slice_order
from bigrun_ct.series import Series, spacing_columns
from bigrun_ct.slices import SliceCache

__all__ = ["SliceDataset", "encodings"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LEVELS = ("patient", "study", "series")
MIB = 2**20


class SliceDataset:
    """Samples (C, H, W): a slice in the middle of its C - 1 neighbours, as stored.

    A neighbour that is not there is the nearest one that is, towards the middle: at the ends of a series, at a gap,
    where the slice has another size, and where it cannot be read and is a sample itself, at which it is a bad file.
    Neighbours come from all files, samples may be a part of them.
    """

    def __init__(self, files: Files, series: Series, channels: int, config: CtConfig) -> None:
        """
        Args:
            channels: an odd number.
        """
        self.files = files
        self.series = series
        self.channels = channels
        self.config = attrs.evolve(config, datasets=dict(config.datasets))  # its empty default cannot be pickled
        self.slope, self.offset = encodings(series, config)
        self.spacing = spacing_columns(files)
        self._take(series.order[series.ranks() % config.z_stride == 0])

    def _take(self, centres: Ints) -> None:
        self.centres = centres
        self.is_sample = np.zeros(len(self.files), dtype=np.bool_)
        self.is_sample[centres] = True
        self.cache = SliceCache(self.config.cache_mib * MIB)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"cache": SliceCache(self.cache.limit_bytes)}

    def __len__(self) -> int:
        return len(self.centres)

    def __getitem__(self, index: int, /) -> Tensor:
        """(C, H, W) uint16. Raises BadImageError for a file that cannot be read, or is not grey with 16 bits: the
        slice in the middle, or a neighbour that is no sample."""
        distance = self.channels // 2
        near = self.series.reach(int(self.centres[index]), distance)
        middle = self.slice(near[distance])
        above = self._outwards(middle, near[distance + 1 :])
        below = self._outwards(middle, near[:distance][::-1])
        return torch.cat([*below[::-1], middle, *above])

    def _outwards(self, middle: Tensor, numbers: list[int]) -> list[Tensor]:
        """Neighbours of one side, from the middle on; from the first that is not there on the last one before that."""
        found: list[Tensor] = []
        for number in numbers:
            try:
                pixels = self.slice(number)
            except BadImageError:
                if not self.is_sample[number]:  # nobody else would count it
                    raise
                break
            if pixels.shape != middle.shape:
                break
            found.append(pixels)
        return found + [found[-1] if found else middle] * (len(numbers) - len(found))

    def slice(self, number: int) -> Tensor:
        """One file, (1, H, W) uint16. Raises BadImageError."""
        return self.cache.get(number, self._decode)

    def _decode(self, number: int) -> Tensor:
        pixels = self.files[number]
        if pixels.shape[0] != 1:
            raise BadImageError(
                self.files.path(number), "unsupported", f"it has {pixels.shape[0]} channels, expected a grey slice"
            )
        if pixels.dtype != torch.uint16:
            raise BadImageError(
                self.files.path(number),
                "unsupported",
                f"its values are {str(pixels.dtype).removeprefix('torch.')}, expected uint16, of which hu_slope and "
                "hu_offset are: write it with 16 bits",
            )
        return pixels

    def describe(self, index: int) -> str:
        """The path of the slice in the middle."""
        return str(self.files.root / self.files.path(int(self.centres[index])))

    def summary(self) -> str:
        """Slices, series and data sets, and what was found amiss."""
        parts = [f"{len(self):,} slices of {len(np.unique(self.series.number[self.centres])):,} series"]
        if self.config.z_stride > 1 or len(self) < len(self.files):
            parts.append(
                f"of {len(self.files):,} files" + f", z_stride {self.config.z_stride}" * (self.config.z_stride > 1)
            )
        if len(self.series.datasets) > 1:
            counts = np.bincount(self.series.dataset[self.centres], minlength=len(self.series.datasets))
            parts.append(
                ", ".join(f"{name or '-'} {n:,}" for name, n in zip(self.series.datasets, counts, strict=True))
            )
        if self.series.gaps:
            parts.append(f"{gaps_of(self.series)} in series: no neighbour across them")
        return "; ".join(parts)

    def subset(self, indices: Ints) -> SliceDataset:
        """The same with these samples only, in this order; neighbours are still those of all files."""
        fewer = copy.copy(self)
        fewer._take(self.centres[indices])
        return fewer

    def order(self, seed: int, effective_batch: int) -> GroupOrder:
        """Diverse in series, data sets by weight: see `slice_order`."""
        return slice_order(self, seed, effective_batch)

    def spacing_mm(self, indices: Ints) -> npt.NDArray[np.float32] | None:
        """(b, 3): x, y, z in mm, NaN where a table has none; None where it has none at all."""
        return None if np.isnan(self.spacing).all() else self.spacing[self.centres[indices]]

    @property
    def levels(self) -> tuple[str, ...]:
        """By what slices can be kept together; never by slice, for neighbours are nearly the same image."""
        return tuple(level for level in LEVELS if level in self.files.columns)

    def groups(self, level: str) -> npt.NDArray[np.object_]:
        """(len(self),) patient, study or series of each sample. Raises ValueError for another level."""
        if level not in self.levels:
            raise ValueError(f"expected one of {', '.join(self.levels)}, got {level!r}")
        groups: npt.NDArray[np.object_] = file_groups(self.files, level)[self.centres]
        return groups

    def intensity(self, dataset: str) -> Intensity | None:
        """Hounsfield units of one data set; None for a name that there is not."""
        if dataset not in self.series.datasets:
            return None
        number = self.series.datasets.index(dataset)
        return Intensity("HU", float(self.slope[number]), float(self.offset[number]))

    def problems(self) -> Iterator[Finding]:
        """Values that are no HU of a body in air refuse a start; gaps and other sizes are only worth knowing."""
        if self.series.gaps:
            yield Finding("slice-gaps", f"{gaps_of(self.series)} in series: a slice is missing, or the distance of "
                          "slices changes; the slices on both sides have no neighbour there")  # fmt: skip
        for seen in hu_checks(self):
            if seen.wrong:
                yield Finding("hu-range", seen.message(), refuses=True)
            if seen.other_sizes:
                yield Finding("neighbour-size", f"{seen.name}: {seen.other_sizes} neighbours of {len(seen.looks)} "
                              "slices have another size and are not used")  # fmt: skip

    def sample_encodings(self) -> tuple[Floats, Floats]:
        """Slope and offset of every sample, (N,) each."""
        dataset = self.series.dataset[self.centres]
        return self.slope[dataset], self.offset[dataset]


def gaps_of(series: Series) -> str:
    return f"{series.gaps:,} gap{'s' if series.gaps > 1 else ''}"


def encodings(series: Series, config: CtConfig) -> tuple[Floats, Floats]:
    """Slope and offset of each data set."""
    own = [config.datasets.get(name) for name in series.datasets]
    slopes = [config.hu_slope if o is None or o.hu_slope is None else o.hu_slope for o in own]
    offsets = [config.hu_offset if o is None or o.hu_offset is None else o.hu_offset for o in own]
    return np.array(slopes), np.array(offsets)
