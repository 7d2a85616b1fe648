"""Numbers as small pictures: images, attention over them, colours, similarities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

__all__ = [
    "HEAT",
    "LIKENESS",
    "Pixels",
    "coloured",
    "colours_tile",
    "cosine_tile",
    "heat_tile",
    "image_tile",
    "scale_tile",
]

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3)."""
Floats = npt.NDArray[np.float64]
Ramp = tuple[tuple[int, int, int], ...]

# Lightness rises from end to end, and from the middle to both ends: the colour-blind read them, and HEAT reads in grey.
HEAT: Ramp = ((8, 8, 20), (52, 22, 104), (134, 32, 118), (206, 62, 78), (242, 134, 40), (252, 210, 92), (255, 250, 214))
LIKENESS: Ramp = ((214, 236, 255), (110, 178, 244), (40, 96, 170), (16, 20, 30), (160, 70, 24), (240, 150, 50),
                  (255, 246, 206))  # fmt: skip
"""Of cosines from -1 to 1; 0 is dark."""


def coloured(values: Floats, ramp: Ramp) -> Pixels:
    """Values in [0, 1] (...) as colours (..., 3)."""
    stops = np.linspace(0, 1, len(ramp))
    channels = [np.interp(values, stops, [colour[c] for colour in ramp]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def resized(values: Floats, size: int, resample: Image.Resampling) -> Floats:
    """(H, W) to (size, size)."""
    image = Image.fromarray(values.astype(np.float32)).resize((size, size), resample)
    return np.asarray(image, dtype=np.float64)


def image_tile(picture: Tensor, size: int) -> Pixels:
    """(1 or 3, s, s) in [0, 1] as a tile."""
    values = (picture.permute(1, 2, 0).expand(-1, -1, 3) * 255).round().byte().numpy()
    return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.LANCZOS))


def brightest(attention: Floats) -> float:
    """The attention that is drawn brightest: twice the mean at least, so that even attention is half as bright as can
    be and not all light."""
    return max(float(np.quantile(attention, 0.995)), 2 * float(attention.mean()), 1e-12)


def heat_tile(attention: Tensor, size: int, picture: Tensor | None = None) -> Pixels:
    """Attention (Hp, Wp), alone or over the picture that it is paid to."""
    values = attention.double().numpy()
    scaled = (resized(values, size, Image.Resampling.BILINEAR) / brightest(values)).clip(0, 1)
    heat = coloured(scaled, HEAT)
    if picture is None:
        return heat
    grey = image_tile(picture.mean(0, keepdim=True), size)
    share = (0.85 * scaled)[..., None]
    mixed: Pixels = (heat * share + 0.85 * grey * (1 - share)).round().astype(np.uint8)
    return mixed


def cosine_tile(values: Tensor, size: int) -> Pixels:
    """Cosines (H, W) on one scale for all, -1 to 1: enlarged as squares, made smaller by means."""
    array = values.double().numpy()
    smaller = array.shape[0] >= size
    scaled = resized(array, size, Image.Resampling.BOX if smaller else Image.Resampling.NEAREST)
    return coloured(((scaled + 1) / 2).clip(0, 1), LIKENESS)


def colours_tile(colours: Tensor, size: int) -> Pixels:
    """(Hp, Wp, 3) in [0, 1], each patch a square."""
    values = (colours * 255).round().byte().numpy()
    return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.NEAREST))


def scale_tile(ramp: Ramp, width: int, height: int) -> Pixels:
    """A colour bar, its low end left."""
    return np.tile(coloured(np.linspace(0, 1, width), ramp)[None], (height, 1, 1))
