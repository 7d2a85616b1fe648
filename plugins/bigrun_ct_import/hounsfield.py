"""Values of a scan as 16-bit numbers, and back."""

from __future__ import annotations

import math

import attrs
import numpy as np
import numpy.typing as npt

from bigrun.errors import UsageError

__all__ = ["CT", "Encoding", "other_encoding"]

OFFSET = 32768
LARGEST = 65535


@attrs.frozen
class Encoding:
    """`stored = round(value / slope) + offset`, after clipping to [low, high].

    For CT, `value` is in Hounsfield units, and what is stored reads back to within 0.05 HU.
    """

    slope: float
    offset: int
    low: float
    high: float

    def __attrs_post_init__(self) -> None:
        assert self.slope > 0
        assert round(self.low / self.slope) + self.offset >= 0
        assert round(self.high / self.slope) + self.offset <= LARGEST

    def encode(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
        """Any shape, uint16. What is no number becomes `low`, the value of air."""
        clipped = np.clip(np.nan_to_num(values, nan=self.low, posinf=self.high, neginf=self.low), self.low, self.high)
        return (np.rint(clipped / self.slope) + self.offset).astype(np.uint16)

    def decode(self, stored: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
        """Any shape, float64."""
        return (stored.astype(np.float64) - self.offset) * self.slope


CT = Encoding(0.1, OFFSET, -1024.0, 3071.0)
"""The range of 12 bits, of which scanners make use, in steps of a tenth."""


def other_encoding(modality: str, scale: float) -> Encoding:
    """Steps of `scale`: for CT over its range, for anything else as far as 16 bits reach on both sides of 0.

    Raises:
        UsageError: so small steps do not reach over the range of CT.
    """
    low, high = -OFFSET * scale, (LARGEST - OFFSET) * scale
    if modality != "CT":
        return Encoding(scale, OFFSET, low, high)
    if low > CT.low or high < CT.high:
        least = math.ceil(1e4 * CT.high / (LARGEST - OFFSET)) / 1e4
        raise UsageError(
            f"--scale {scale:g}: 16 bits hold {low:g} to {high:g} HU in such steps, expected {CT.low:g} to {CT.high:g} "
            f"at least, or air or bone would be cut off: --scale {least:g} or more"
        )
    return Encoding(scale, OFFSET, CT.low, CT.high)
