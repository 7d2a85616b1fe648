"""Small pictures of images and of their values."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from bigrun.markup import Markup, element

if TYPE_CHECKING:
    from bigrun.data.check.tally import Kind

__all__ = ["chart", "thumbnail"]

THUMBNAIL_PX = 96
BARS = 80
WIDTH, HEIGHT = 480, 90


def thumbnail(pixels: npt.NDArray[np.generic], low: float, high: float) -> str:
    """An image (C, H, W) as the URL of a PNG of at most 96 pixels a side; three channels are colours, of others the
    first is shown.

    Args:
        low: the stored value that is black.
        high: the one that is white.
    """
    shown = pixels if len(pixels) == 3 else pixels[:1]
    step = max(1, min(shown.shape[1:]) // THUMBNAIL_PX // 2)  # a whole volume's slice need not be converted
    values = shown[:, ::step, ::step].astype(np.float32)
    grey = (np.clip((values - low) / (high - low), 0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(grey[0] if len(grey) == 1 else np.ascontiguousarray(grey.transpose(1, 2, 0)))
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def chart(kind: Kind) -> Markup:
    """The histogram of a data set's values, as SVG; the height of a bar is the logarithm of its count."""
    low, high, counts = kind.histogram.bars(BARS)
    heights = np.log1p(counts) / np.log1p(counts.max()) * HEIGHT
    wide = WIDTH / len(counts)
    bars = (
        element(
            "rect",
            x=f"{place * wide:.1f}",
            y=f"{HEIGHT - height:.1f}",
            width=f"{max(wide - 1, 1):.1f}",
            height=f"{height:.1f}",
        )
        for place, height in enumerate(heights.tolist())
    )
    first, last = (in_unit(kind, value) for value in (low, high))
    labels = (
        element("text", first, x=0, y=HEIGHT + 14),
        element("text", last, x=WIDTH, y=HEIGHT + 14, text_anchor="end"),
    )
    title = element("title", f"{kind.dataset}: values from {first} to {last}, counts as logarithms")
    return element("svg", title, *bars, *labels, viewBox=f"0 0 {WIDTH} {HEIGHT + 18}", role="img")


def in_unit(kind: Kind, value: float) -> str:
    meaning = kind.intensity
    return f"{value:,.6g}" if meaning is None else f"{(value - meaning.offset) * meaning.slope:,.6g} {meaning.unit}"
