"""What was seen in all images together, data set by data set."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs
import numpy as np

from bigrun.data.check.finding import Intensity
from bigrun.data.check.histogram import Histogram

if TYPE_CHECKING:
    import numpy.typing as npt

    from bigrun.data.check.examine import Examined, Seen

__all__ = ["PERCENTILES", "Kind", "Tally"]

PERCENTILES = (0, 1, 50, 99, 100)


@attrs.define(eq=False)
class Kind:
    """The images of one data set that have one dtype."""

    dataset: str
    dtype: str
    histogram: Histogram
    intensity: Intensity | None = None
    """What the data set says of its stored values."""
    shapes: Counter[tuple[int, int, int]] = attrs.field(factory=Counter)
    """(C, H, W) -> images"""

    @property
    def images(self) -> int:
        """How many there are."""
        return self.shapes.total()

    def channels(self) -> dict[int, int]:
        """Channels -> images, the most frequent first."""
        counts: Counter[int] = Counter()
        for (channels, _, _), count in self.shapes.items():
            counts[channels] += count
        return dict(counts.most_common())

    def sizes(self) -> list[tuple[int, int]]:
        """(H, W) of the smallest, the median and the largest; each side by itself."""
        shapes = np.array(list(self.shapes), dtype=np.int64)
        counts = np.array(list(self.shapes.values()))
        sides = [weighted(shapes[:, axis], counts) for axis in (1, 2)]
        return [(int(height), int(width)) for height, width in zip(*sides, strict=True)]

    def percentiles(self) -> dict[int, float]:
        """Percent -> value, in the unit that the data set states, else as it is stored."""
        meaning = self.intensity or Intensity("")
        return {
            percent: (self.histogram.percentile(percent) - meaning.offset) * meaning.slope for percent in PERCENTILES
        }

    def range_of(self, low: float, high: float) -> tuple[float, float]:
        """Two percentiles as stored values; never equal."""
        a, b = self.histogram.percentile(low), self.histogram.percentile(high)
        return a, max(b, a + self.histogram.step)


class Tally:
    """Sums over images; what is kept of each is a digest of 16 bytes."""

    def __init__(self, names: list[str], intensities: list[Intensity | None]) -> None:
        """
        Args:
            names: of the data sets; one without a name is told as `all` if it is the only one, else as `-`.
            intensities: what each one says of its stored values.
        """
        self.names = [name or ("-" if len(names) > 1 else "all") for name in names]
        self.intensities = intensities
        self.kinds: dict[tuple[int, str], Kind] = {}
        self.bad: list[Seen] = []
        self.constant: list[int] = []
        """Numbers of images that are one colour."""
        self.numbers: list[int] = []
        """Of images that were decoded and are not constant; `digests` has theirs."""
        self.digests = bytearray()
        self.checked = 0

    def add(self, examined: Examined, sets: npt.NDArray[np.int64]) -> None:
        """Count some images.

        Args:
            sets: (images,) the data set of each image.
        """
        for key, histogram in examined.histograms.items():
            if key not in self.kinds:
                place, dtype = key
                self.kinds[key] = Kind(self.names[place], dtype, Histogram(dtype), self.intensities[place])
            self.kinds[key].histogram.merge(histogram)
        self.checked += len(examined.seen)
        for seen in examined.seen:
            if seen.shape is None or seen.dtype is None:
                self.bad.append(seen)
                continue
            self.kinds[int(sets[seen.number]), seen.dtype].shapes[seen.shape] += 1
            if seen.is_constant:
                self.constant.append(seen.number)
            else:
                self.numbers.append(seen.number)
                self.digests += seen.digest

    def rows(self) -> list[Kind]:
        """By data set and dtype."""
        return [self.kinds[key] for key in sorted(self.kinds)]


def weighted(values: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> tuple[int, int, int]:
    """The smallest, the median and the largest of values that occur so many times."""
    order = np.argsort(values)
    values, reached = values[order], np.cumsum(counts[order])
    return int(values[0]), int(values[np.searchsorted(reached, (reached[-1] + 1) // 2)]), int(values[-1])
