"""What happens to the crops of a micro-batch: drawn on the host, so that the device never waits for an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
from torch import Tensor

from bigrun import sections
from bigrun.data import augment
from bigrun.data.boxes import BOX_DRAWS, spread

__all__ = ["BOX", "DRAWS", "Choices", "Distortions", "share_colour"]

# Each number a crop draws has its place, so that switching one distortion off leaves the others as they were.
BOX = slice(0, BOX_DRAWS)
FLIP, COLOUR, BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAYSCALE, BLUR, SIGMA, SOLARISE = range(BOX_DRAWS, BOX_DRAWS + 10)
DRAWS = BOX_DRAWS + 10

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def share_colour(draws: Floats) -> Floats:
    """Draws (V, b, DRAWS) in which all views have the colour jitter and the grayscale of the first."""
    shared = draws.copy()
    shared[..., COLOUR : GRAYSCALE + 1] = draws[:1, :, COLOUR : GRAYSCALE + 1]
    return shared


@attrs.frozen(eq=False)
class Choices:
    """Of n crops, those to which something happens, and how strongly."""

    chosen: dict[str, Bools]  # name -> (n,)
    strengths: Floats  # (n, 5): brightness, contrast, saturation, hue, sigma in pixels
    blur_radius: int = augment.BLUR_RADIUS

    @classmethod
    def of(cls, section: sections.Views, draws: Floats, blur: Sequence[float], solarise: Sequence[float]) -> Choices:
        """From draws (V, b, DRAWS) and the probabilities of blur and of solarisation (V,) of each view."""
        chosen = {
            "flip": draws[..., FLIP] < section.flip_probability,
            "colour": draws[..., COLOUR] < section.colour_probability,
            "grayscale": draws[..., GRAYSCALE] < section.grayscale_probability,
            "blur": draws[..., BLUR] < np.array(blur)[:, None],
            "solarise": draws[..., SOLARISE] < np.array(solarise)[:, None],
        }
        colour = [
            spread(draws[..., BRIGHTNESS], 1 - section.brightness, 1 + section.brightness),
            spread(draws[..., CONTRAST], 1 - section.contrast, 1 + section.contrast),
            spread(draws[..., SATURATION], 1 - section.saturation, 1 + section.saturation),
            spread(draws[..., HUE], -section.hue, section.hue),
        ]
        # Most crops are jittered. The others go along unchanged, which costs less than to sort them out.
        jitter = np.where(chosen["colour"][..., None], np.stack(colour, axis=-1), [1.0, 1.0, 1.0, 0.0])
        sigma = spread(draws[..., SIGMA], *section.blur_sigma)
        return cls(
            {name: which.ravel() for name, which in chosen.items()},
            np.concatenate([jitter, sigma[..., None]], axis=-1).reshape(-1, 5),
        )

    def __getitem__(self, rows: slice) -> Choices:
        chosen = {name: which[rows] for name, which in self.chosen.items()}
        return attrs.evolve(self, chosen=chosen, strengths=self.strengths[rows])

    @property
    def brightness(self) -> Floats:
        """Factors (n,)."""
        return self.strengths[:, 0]

    def arrays(self) -> list[npt.NDArray[Any]]:
        """What the device needs of them."""
        return [self.strengths, *map(np.flatnonzero, self.chosen.values())]

    def only_flips(self) -> Choices:
        """The same without any other distortion."""
        none = np.zeros(len(self.strengths), dtype=np.bool_)
        return attrs.evolve(self, chosen={**dict.fromkeys(self.chosen, none), "flip": self.chosen["flip"]})

    def at_scale(self, factor: float) -> Choices:
        """The same for crops of `factor` times the side: the blur grows with them."""
        radius = max(round(augment.BLUR_RADIUS * factor), 1)
        return attrs.evolve(self, strengths=self.strengths * [1, 1, 1, 1, factor], blur_radius=radius)


@attrs.frozen(eq=False)
class Distortions:
    """Choices for n crops on the device."""

    strengths: Tensor  # (n, 5) fp32
    rows: dict[str, Tensor]  # name -> rows that are chosen, int64
    blur_radius: int

    @classmethod
    def of(cls, choices: Choices, sent: Iterator[tuple[Tensor, Tensor]]) -> Distortions:
        """From the choices' arrays, on the device as fp32 and as int64."""
        strengths = next(sent)[0]
        return cls(strengths, {name: next(sent)[1] for name in choices.chosen}, choices.blur_radius)

    def apply(self, crops: Tensor, pivot: Tensor | None) -> None:
        """Flip, colour, blur and solarise crops (n, C, s, s) in place; the contrast turns about `pivot` (n,)."""
        brightness, contrast, saturation, hue, sigma = self.strengths.unbind(1)
        self._apply("flip", augment.flip_horizontal, crops)
        if self.rows["colour"].numel():
            augment.jitter_colour_(crops, brightness, contrast, saturation, hue, pivot)
        self._apply("grayscale", augment.luma, crops)
        self._apply("blur", partial(augment.gaussian_blur, radius=self.blur_radius), crops, sigma)
        self._apply("solarise", augment.solarise, crops)

    def _apply(self, name: str, operation: Callable[..., Tensor], crops: Tensor, *strengths: Tensor) -> None:
        """To the chosen crops. Only their number is asked for, which the host knows."""
        rows = self.rows[name]
        if rows.numel() == len(crops):
            crops.copy_(operation(crops, *strengths))
        elif rows.numel():
            crops[rows] = operation(crops.index_select(0, rows), *(s[rows] for s in strengths))
