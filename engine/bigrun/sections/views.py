"""[views]: the crops and their distortions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from bigrun.options import between, interval, option

__all__ = ["Views"]

SIDES_PX = (8, 2**14)


def _jitter(default: float, *, limit: float, help: str) -> Any:
    """A strength of the colour jitter; without jitter it is dead."""
    return option(
        default,
        check=between(0, limit),
        effective=lambda views: views.colour_probability > 0,
        otherwise="views.colour_probability = 0",
        help=help,
    )


@attrs.frozen
class Views:
    """Multi-crop augmentation, batched on the training device [spec 2.1]."""

    global_crops: int = option(
        2, check=between(2, 100), fixed=True, help="Large crops per image; the teacher sees these."
    )
    global_size_px: int = option(
        224,
        check=between(*SIDES_PX),
        fixed=True,
        effective=lambda views: views.sizes_px is None,
        otherwise="views.sizes_px is set",
        help="Side of a global crop.",
    )
    global_scale: tuple[float, float] = option((0.32, 1.0), check=interval(0, 1), help="Area range of global crops.")
    local_crops: int = option(
        8, check=between(0, 100), fixed=True, help="Small crops per image; only the student sees these."
    )
    local_size_px: int = option(
        96,
        check=between(*SIDES_PX),
        fixed=True,
        effective=lambda views: views.local_crops > 0 and views.sizes_px is None,
        otherwise="views.local_crops = 0 or views.sizes_px is set",
        help="Side of a local crop.",
    )
    sizes_px: tuple[tuple[int, int], ...] | None = option(
        None,
        fixed=True,
        help="Instead of one size, a list of [global, local] sides; every optimizer step draws one pair [spec 2.3].",
    )
    size_weights: tuple[float, ...] | None = option(
        None,
        fixed=True,
        effective=lambda views: views.sizes_px is not None,
        otherwise="views.sizes_px is not set",
        help="How often each pair of sizes_px is drawn, relative to the others; off: all alike.",
    )
    local_scale: tuple[float, float] = option(
        (0.05, 0.32),
        check=interval(0, 1),
        effective=lambda views: views.local_crops > 0,
        otherwise="views.local_crops = 0",
        help="Area range of local crops.",
    )
    aspect_ratio: tuple[float, float] = option(
        (0.75, 4 / 3), check=interval(0, 100), help="Width over height of a crop before it is resized, log-uniform."
    )
    flip_probability: float = option(0.5, check=between(0, 1), help="Horizontal flip.")
    colour_probability: float = option(0.8, check=between(0, 1), help="Colour jitter of a crop.")
    brightness: float = _jitter(0.4, limit=1, help="Brightness factor is drawn from 1 - b to 1 + b.")
    contrast: float = _jitter(0.4, limit=1, help="Contrast factor is drawn from 1 - c to 1 + c.")
    saturation: float = _jitter(0.2, limit=1, help="Saturation factor is drawn from 1 - s to 1 + s.")
    hue: float = _jitter(0.1, limit=0.5, help="Hue shift is drawn from -h to h, in turns of the colour circle.")
    grayscale_probability: float = option(0.2, check=between(0, 1), help="Crop loses its colour.")
    share_colour: bool = option(
        False,
        effective=lambda views: views.colour_probability > 0 or views.grayscale_probability > 0,
        otherwise="views.colour_probability and views.grayscale_probability are 0",
        help="Colour jitter and grayscale are drawn once per image, not per crop; contrast turns about the mean of the "
        "whole image [spec 2.1].",
    )
    blur_probability: tuple[float, float, float] = option(
        (0.0, 0.9, 0.5),
        help="Gaussian blur of the first global, the other global, and the local crops. The default is what the "
        "published models were trained with; what their recipe intended is [1.0, 0.1, 0.5] [spec 2.1].",
    )
    blur_sigma: tuple[float, float] = option(
        (0.1, 2.0), check=interval(0, 100), help="Range of the blur's sigma in pixels."
    )
    solarise_probability: float = option(
        0.2, check=between(0, 1), help="Second global crop: values above 0.5 are inverted."
    )
    mean: tuple[float, ...] = option((0.485, 0.456, 0.406), help="Per channel, subtracted from values in [0, 1].")
    std: tuple[float, ...] = option((0.229, 0.224, 0.225), help="Per channel, divides after the mean is subtracted.")

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The sides (global, local) that occur, in pixels; local ones mean nothing without local crops."""
        return self.sizes_px or ((self.global_size_px, self.local_size_px),)

    def undistorted(self, side_px: int) -> Views:
        """For pictures and scores: the central square of each image at one size, normalised, with nothing drawn."""
        return attrs.evolve(
            self,
            global_crops=2,  # the second is equal
            local_crops=0,
            global_size_px=side_px,
            sizes_px=None,
            size_weights=None,
            share_colour=False,
            global_scale=(1.0, 1.0),
            aspect_ratio=(1.0, 1.0),
            flip_probability=0.0,
            colour_probability=0.0,
            grayscale_probability=0.0,
            blur_probability=(0.0, 0.0, 0.0),
            solarise_probability=0.0,
        )

    def sides(self) -> Iterator[tuple[str, int]]:
        """Every side that occurs, with the name of its option."""
        mixed = self.sizes_px is not None
        for large, small in self.pairs:
            yield "sizes_px" if mixed else "global_size_px", large
            if self.local_crops:
                yield "sizes_px" if mixed else "local_size_px", small

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.sizes_px is not None:
            yield from self._pair_problems(self.sizes_px)
        if not all(0 <= p <= 1 for p in self.blur_probability):
            yield "blur_probability", f"expected three values from 0 to 1, got {list(self.blur_probability)}"
        if any(s <= 0 for s in self.std):
            yield "std", f"expected values above 0, got {list(self.std)}"
        if len(self.mean) != len(self.std):
            yield "mean", f"has {len(self.mean)} channels but views.std has {len(self.std)}"

    def _pair_problems(self, pairs: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, str]]:
        low, high = SIDES_PX
        if not pairs:
            yield "sizes_px", "expected at least one pair [global, local], got none"
        for side in (side for pair in pairs for side in pair if not low <= side <= high):
            yield "sizes_px", f"expected sides of {low} to {high}, got {side}"
        weights = self.size_weights
        if weights is not None and len(weights) != len(pairs):
            yield "size_weights", f"expected one weight for each of the {len(pairs)} pairs, got {len(weights)}"
        elif weights is not None and any(weight <= 0 for weight in weights):
            yield "size_weights", f"expected values above 0, got {list(weights)}"
