"""Where the crops are cut."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["BOX_DRAWS", "crop_boxes"]

ATTEMPTS = 10
BOX_DRAWS = 2 * ATTEMPTS + 2

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def crop_boxes(draws: Floats, sizes: Ints, scale: tuple[float, float], aspect: tuple[float, float]) -> Ints:
    """Boxes of a uniform share of the area and a log-uniform aspect ratio, somewhere inside the image.

    The first of 10 attempts that fits is taken (Inception's random crops, arXiv 1409.4842, section 6); without
    one, the largest centred box with an allowed aspect ratio.

    Args:
        draws: (..., BOX_DRAWS) uniform numbers in [0, 1).
        sizes: (..., 2) height and width of each image in pixels.
        scale: smallest and largest share of the area.
        aspect: smallest and largest width over height.

    Returns:
        (..., 4) int64: top, left, height, width.
    """
    height, width = (sizes[..., side, None].astype(np.float64) for side in (0, 1))
    low, high = aspect
    area = height * width * spread(draws[..., :ATTEMPTS], *scale)
    ratio = np.exp(spread(draws[..., ATTEMPTS : 2 * ATTEMPTS], np.log(low), np.log(high)))
    tall, wide = np.rint(np.sqrt(area / ratio)), np.rint(np.sqrt(area * ratio))
    fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
    first = fits.argmax(axis=-1, keepdims=True)
    tall, wide = np.take_along_axis(tall, first, -1), np.take_along_axis(wide, first, -1)

    fitting = fits.any(axis=-1, keepdims=True)
    nearest = np.clip(width / height, low, high)
    tall = np.where(fitting, tall, np.clip(np.rint(width / nearest), 1, height))
    wide = np.where(fitting, wide, np.clip(np.rint(height * nearest), 1, width))
    top = np.where(fitting, np.floor(draws[..., -2, None] * (height - tall + 1)), (height - tall) // 2)
    left = np.where(fitting, np.floor(draws[..., -1, None] * (width - wide + 1)), (width - wide) // 2)
    return np.concatenate([top, left, tall, wide], axis=-1).astype(np.int64)


def spread(draws: Floats, low: float, high: float) -> Floats:
    """Uniform numbers from [0, 1) to [low, high)."""
    return low + draws * (high - low)
