"""[views]: the crops and their distortions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from bigrun.options import between, interval, option

__all__ = ["Views"]


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
    global_size_px: int = option(224, check=between(8, 2**14), fixed=True, help="Side of a global crop.")
    global_scale: tuple[float, float] = option((0.32, 1.0), check=interval(0, 1), help="Area range of global crops.")
    local_crops: int = option(
        8, check=between(0, 100), fixed=True, help="Small crops per image; only the student sees these."
    )
    local_size_px: int = option(
        96,
        check=between(8, 2**14),
        fixed=True,
        effective=lambda views: views.local_crops > 0,
        otherwise="views.local_crops = 0",
        help="Side of a local crop.",
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
    blur_probability: tuple[float, float, float] = option(
        (0.0, 0.9, 0.5),
        help="Gaussian blur of the first global, the other global, and the local crops, as published models had it.",
    )
    blur_sigma: tuple[float, float] = option(
        (0.1, 2.0), check=interval(0, 100), help="Range of the blur's sigma in pixels."
    )
    solarise_probability: float = option(
        0.2, check=between(0, 1), help="Second global crop: values above 0.5 are inverted."
    )
    mean: tuple[float, ...] = option((0.485, 0.456, 0.406), help="Per channel, subtracted from values in [0, 1].")
    std: tuple[float, ...] = option((0.229, 0.224, 0.225), help="Per channel, divides after the mean is subtracted.")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not all(0 <= p <= 1 for p in self.blur_probability):
            yield "blur_probability", f"expected three values from 0 to 1, got {list(self.blur_probability)}"
        if any(s <= 0 for s in self.std):
            yield "std", f"expected values above 0, got {list(self.std)}"
        if len(self.mean) != len(self.std):
            yield "mean", f"has {len(self.mean)} channels but views.std has {len(self.std)}"
