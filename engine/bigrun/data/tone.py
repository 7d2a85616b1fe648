"""What stored values mean: the straight line that brings them to [0, 1], for each view of each image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs
import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from bigrun.data.dataset import Samples

__all__ = ["FullRange", "Steady", "Tone", "ToneOfPart", "describe_tone"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HIGHEST = {torch.uint8: 255.0, torch.uint16: 65535.0, torch.float32: 1.0}


class Tone(Protocol):
    """A view is `clip(v * gain + shift, 0, 1)` of the resampled stored values v.

    Resampling is linear with weights of sum 1, so a window after it is a window before it, except that the clip
    also takes off what a bicubic kernel overshoots. Answers are functions of their arguments alone. A tone may also
    have `describe() -> str`: what becomes 0 and what 1, for users of the exported network.
    """

    def affine(self, samples: Samples, views: Ints, seed: int) -> tuple[Floats, Floats | None]:
        """Of views of b images in training.

        Args:
            samples: the images, with their epochs, and their indices in the whole data set.
            views: (V,) numbers of the views: global crops count from 0, local crops go on behind them.
            seed: of the run; drawn numbers are functions of (seed, epoch, index, view), as `bigrun.data.draws` makes
                them.

        Returns:
            gain (V, b) and shift (V, b); None for no shift.
        """
        ...

    def typical(self, samples: Samples) -> tuple[Floats, Floats | None]:
        """Of images that are looked at and not trained on, with nothing drawn: gain (b,) and shift (b,), or None."""
        ...


def describe_tone(tone: Tone) -> str:
    """What somebody who uses the network should do to stored values."""
    describe = getattr(tone, "describe", None)
    return str(describe()) if describe else f"as `{type(tone).__name__}` of a plugin does"


class FullRange:
    """The whole range of the stored type: 0 to 255, to 65535, or to 1 for floats."""

    def describe(self) -> str:
        """For the model card."""
        return "8 bits: divided by 255, 16 bits: by 65535"

    def affine(self, samples: Samples, views: Ints, seed: int) -> tuple[Floats, None]:
        """The same for every view."""
        gain, _ = self.typical(samples)
        return np.tile(gain, (len(views), 1)), None

    def typical(self, samples: Samples) -> tuple[Floats, None]:
        """One over the largest value."""
        return np.array([1 / HIGHEST[dtype] for dtype, _ in samples.layout]), None


class Steady:
    """Another tone, at its typical values in every view: for pictures and scores that must not depend on a draw."""

    def __init__(self, tone: Tone) -> None:
        self.tone = tone

    def affine(self, samples: Samples, views: Ints, seed: int) -> tuple[Floats, Floats | None]:
        """The typical values for every view."""
        gain, shift = self.tone.typical(samples)
        return np.tile(gain, (len(views), 1)), None if shift is None else np.tile(shift, (len(views), 1))

    def typical(self, samples: Samples) -> tuple[Floats, Floats | None]:
        """Those of the other tone."""
        return self.tone.typical(samples)


class ToneOfPart:
    """A tone that numbers the samples of a whole data set, asked of samples that are numbered in a part of it."""

    def __init__(self, tone: Tone, indices: Ints) -> None:
        """
        Args:
            indices: (n,) in the whole of the part's samples.
        """
        self.tone = tone
        self.indices = indices

    def describe(self) -> str:
        """As the tone of the whole."""
        return describe_tone(self.tone)

    def affine(self, samples: Samples, views: Ints, seed: int) -> tuple[Floats, Floats | None]:
        """Those of the tone of the whole."""
        return self.tone.affine(self._whole(samples), views, seed)

    def typical(self, samples: Samples) -> tuple[Floats, Floats | None]:
        """Those of the tone of the whole."""
        return self.tone.typical(self._whole(samples))

    def _whole(self, samples: Samples) -> Samples:
        return attrs.evolve(samples, indices=torch.from_numpy(self.indices[samples.indices.numpy()]))
