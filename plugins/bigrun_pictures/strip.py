"""The strip of one image: a column for each look that is kept, so that change is seen at one glance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bigrun_pictures.canvas import FAINT, Canvas

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["draw_strip"]

GAP, MARGIN, HEAD, SIDE = 4, 14, 64, 84
ROWS = ("attention", "features", "similarity")


def draw_strip(columns: Sequence[tuple[int, Tensor]], title: str) -> bytes:
    """A PNG file.

    Args:
        columns: (step, (4, T, T, 3) uint8: image, attention, colours and similarity), ascending.
    """
    tiles = [(step, stack.numpy()) for step, stack in columns]
    size = tiles[0][1].shape[1]
    width = 2 * MARGIN + SIDE + (1 + len(tiles)) * (size + GAP)
    canvas = Canvas(max(width, 420), HEAD + len(ROWS) * (size + GAP) + MARGIN)
    canvas.text(MARGIN, 10, title, 16, width=canvas.image.width - 2 * MARGIN)
    for row, name in enumerate(ROWS):
        canvas.text(MARGIN, HEAD + row * (size + GAP) + size // 2 - 8, name, 13, FAINT)
    newest = np.ascontiguousarray(tiles[-1][1][0])
    canvas.text(MARGIN + SIDE, HEAD - 20, "image", 13)
    canvas.tile(MARGIN + SIDE, HEAD, newest)
    for number, (step, stack) in enumerate(tiles, 1):
        left = MARGIN + SIDE + number * (size + GAP)
        canvas.text(left, HEAD - 20, f"step {step:,}", 13, width=size)
        for row in range(len(ROWS)):
            canvas.tile(left, HEAD + row * (size + GAP), np.ascontiguousarray(stack[row + 1]))
    return canvas.png()
