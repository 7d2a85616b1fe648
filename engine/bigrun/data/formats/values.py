"""Bringing decoded pixels into the one form that the rest of the engine knows, without changing a value."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bigrun.data.faults import BadImageError

__all__ = ["on_white", "unit_floats", "upright"]

Pixels = npt.NDArray[Any]

# EXIF 2.32, tag 0x0112: what makes a stored image upright. From 5 on, height and width are exchanged first.
FLIPS = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}


def upright(pixels: Pixels, orientation: object) -> Pixels:
    """(C, H, W) as the camera was held; an orientation that is none of 1 to 8 means nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(0, 2, 1)
    flips = FLIPS.get(orientation) if isinstance(orientation, int) else None
    return pixels if flips is None else np.flip(pixels, flips)


def unit_floats(path: str, pixels: Pixels) -> Pixels:
    """The pixels. Raises BadImageError: "unsupported" for values outside of [0, 1]."""
    low, high = pixels.min(), pixels.max()
    if not 0 <= low <= high <= 1:
        message = f"float image with values from {low:g} to {high:g}, expected [0, 1] - rescale the file"
        raise BadImageError(path, "unsupported", message)
    return pixels


def on_white(pixels: Pixels, *, premultiplied: bool) -> Pixels:
    """(C + 1, H, W) uint8 or uint16, of which the last channel is opacity, as (C, H, W) on white, rounded.

    An opaque pixel keeps its value; another has no one value without its background.
    """
    most = int(np.iinfo(pixels.dtype).max)
    colours, opacity = pixels[:-1].astype(np.uint64), pixels[-1].astype(np.uint64)
    if not premultiplied:
        colours = (colours * opacity + most // 2) // most
    blended: Pixels = np.minimum(colours + (most - opacity), most).astype(pixels.dtype)
    return blended
