"""How often each stored value occurs in many images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["BINS", "Histogram"]

BINS = {"uint8": 2**8, "uint16": 2**16, "float32": 2**16}
"""Of integers one bin is one value; of floats in [0, 1] it is 1/65535 wide."""


class Histogram:
    """Counts of the stored values of images of one dtype; two can be added."""

    def __init__(self, dtype: str) -> None:
        """
        Args:
            dtype: uint8, uint16 or float32.
        """
        self.dtype = dtype
        self.counts: npt.NDArray[np.int64] = np.zeros(BINS[dtype], dtype=np.int64)

    def add(self, pixels: npt.NDArray[np.generic]) -> None:
        """Count the values of an image of any shape; floats are in [0, 1]."""
        values = pixels.ravel()
        if self.dtype == "float32":
            values = np.rint(np.clip(values.astype(np.float64), 0, 1) * (len(self.counts) - 1)).astype(np.int64)
        self.counts += np.bincount(values, minlength=len(self.counts))

    def merge(self, other: Histogram) -> None:
        """Add the counts of another one of the same dtype."""
        self.counts += other.counts

    @property
    def total(self) -> int:
        """Values counted."""
        return int(self.counts.sum())

    @property
    def step(self) -> float:
        """What a bin is, in stored values."""
        return 1 / (len(self.counts) - 1) if self.dtype == "float32" else 1.0

    def percentile(self, percent: float) -> float:
        """The smallest stored value that at least `percent` of all values do not exceed; exact for integers."""
        reached = np.cumsum(self.counts)
        needed = max(1, int(np.ceil(percent / 100 * reached[-1])))
        return float(np.searchsorted(reached, needed)) * self.step

    def bars(self, count: int) -> tuple[float, float, npt.NDArray[np.int64]]:
        """The lowest and highest stored value, and the counts in `count` equal parts of what lies between."""
        filled = np.flatnonzero(self.counts)
        low, high = int(filled[0]), int(filled[-1])
        edges = np.unique(np.linspace(low, high + 1, count + 1).astype(np.int64))
        return low * self.step, high * self.step, np.add.reduceat(self.counts, edges[:-1])[: len(edges) - 1]
