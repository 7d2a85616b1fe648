"""From stored values to an intensity window, drawn for each view."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bigrun.data.draws import uniforms

if TYPE_CHECKING:
    from bigrun.data.dataset import Samples

__all__ = ["HuWindow", "window_line"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def window_line(slope: Floats, offset: Floats, level: Floats, width: Floats) -> tuple[Floats, Floats]:
    """Gain and shift that take stored values to (HU - (level - width / 2)) / width, HU = (value - offset) * slope."""
    return slope / width, 0.5 - (level + offset * slope) / width


class HuWindow:
    """Each view sees HU from level - width / 2 to level + width / 2 as 0 to 1, alike in all its channels."""

    def __init__(
        self, slope: Floats, offset: Floats, level_hu: tuple[float, float], width_hu: tuple[float, float]
    ) -> None:
        """
        Args:
            slope, offset: (N,) of the samples: HU = (value - offset) * slope.
            level_hu, width_hu: ranges that are drawn from.
        """
        self.slope = slope
        self.offset = offset
        self.level_hu = level_hu
        self.width_hu = width_hu

    def describe(self) -> str:
        """For the model card."""
        level, width = sum(self.level_hu) / 2, sum(self.width_hu) / 2
        return (
            f"CT in Hounsfield units: {level - width / 2:g} HU becomes 0 and {level + width / 2:g} HU becomes 1, what "
            f"is beyond is cut off; in training the middle of the window was drawn from {self.level_hu[0]:g} to "
            f"{self.level_hu[1]:g} HU, its width from {self.width_hu[0]:g} to {self.width_hu[1]:g} HU; the channels "
            "are neighbouring slices"
        )

    def affine(self, samples: Samples, views: Ints, seed: int) -> tuple[Floats, Floats]:
        """Windows drawn as functions of (seed, epoch, index, view)."""
        indices = samples.indices.numpy()
        draws = uniforms(seed, "hu window", samples.epochs.numpy(), indices, views[:, None], count=2)  # (V, b, 2)
        level, width = (
            low + draw * (high - low)
            for draw, (low, high) in zip(np.moveaxis(draws, -1, 0), (self.level_hu, self.width_hu), strict=True)
        )
        return window_line(self.slope[indices], self.offset[indices], level, width)

    def typical(self, samples: Samples) -> tuple[Floats, Floats]:
        """The window in the middle of both ranges."""
        indices = samples.indices.numpy()
        level, width = (np.full(len(indices), sum(bounds) / 2) for bounds in (self.level_hu, self.width_hu))
        return window_line(self.slope[indices], self.offset[indices], level, width)
