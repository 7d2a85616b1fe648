"""The sheet of a step: every image, what the teacher attends to, what its patches know, what is like the marked one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun_pictures.canvas import FAINT, Canvas
from bigrun_pictures.tiles import HEAT, LIKENESS, Pixels, colours_tile, cosine_tile, heat_tile, image_tile, scale_tile

if TYPE_CHECKING:
    from bigrun_pictures.colours import Painted
    from bigrun_pictures.gather import Look, Sample

__all__ = ["SMALL", "draw_overview", "mark", "sample_tiles"]

TILE, GAP, MARGIN, HEAD, LABEL, FOOT = 248, 6, 14, 68, 20, 40
SMALL = 128
"""Side of the tiles of which strips are made."""


def sample_tiles(sample: Sample, painted: Painted, size: int) -> list[Pixels]:
    """Image, attention (last of the blocks, mean over heads), colours and similarity: each (size, size, 3) uint8."""
    return [
        image_tile(sample.picture, size),
        heat_tile(sample.attention[-1].mean(0), size, sample.picture),
        colours_tile(painted.colours[sample.position][-1], size),
        cosine_tile(sample.similarity[-1], size),
    ]


def mark(canvas: Canvas, left: int, top: int, size: int, look: Look) -> None:
    """A frame around the patch that all others are compared with, in a tile."""
    (row, column), (rows, columns) = look.marked, look.grid
    width, height = max(round(size / columns), 4), max(round(size / rows), 4)
    canvas.frame(left + round(column * size / columns), top + round(row * size / rows), width, height)


def draw_overview(look: Look, painted: Painted) -> bytes:
    """A PNG file: a row for each image."""
    width = 2 * MARGIN + 4 * TILE + 3 * GAP
    canvas = Canvas(width, HEAD + len(look.samples) * (TILE + LABEL + GAP) + FOOT)
    about = f"teacher, block {look.blocks[-1]} of {look.depth}"
    canvas.title(MARGIN, 10, look.step, about if look.window is None else f"{about}; {look.window}")
    heads = look.samples[0].attention[-1].shape[0]
    titles = (
        "image",
        f"attention of the class token ({heads} heads)",
        f"patch features (PCA, {painted.explained[-1]:.0%})",
        "cosine to the marked patch",
    )
    lefts = [MARGIN + n * (TILE + GAP) for n in range(4)]
    for left, title in zip(lefts, titles, strict=True):
        canvas.text(left, HEAD - 24, title, 13, width=TILE)
    for row, sample in enumerate(look.samples):
        top = HEAD + row * (TILE + LABEL + GAP)
        for left, tile in zip(lefts, sample_tiles(sample, painted, TILE), strict=True):
            canvas.tile(left, top, tile)
        for left in (lefts[0], lefts[3]):
            mark(canvas, left, top, TILE, look)
        canvas.text(MARGIN, top + TILE + 3, f"{sample.position}  {sample.name}", 12, FAINT, width - 2 * MARGIN)
    draw_scales(canvas, lefts, canvas.image.height - FOOT + 8, look)
    return canvas.png()


def draw_scales(canvas: Canvas, lefts: list[int], top: int, look: Look) -> None:
    """The two colour bars, and how even attention is."""
    canvas.text(lefts[0], top, f"evenness of attention {look.entropies()[-1]:.2f} (1: all alike)", 12, FAINT, TILE)
    canvas.tile(lefts[1], top + 3, scale_tile(HEAT, TILE, 8))
    canvas.text(lefts[1], top + 13, "none", 11, FAINT)
    canvas.text(lefts[1] + TILE - 28, top + 13, "most", 11, FAINT)
    canvas.text(lefts[2], top, "three components as red, green, blue", 12, FAINT, TILE)
    canvas.tile(lefts[3], top + 3, scale_tile(LIKENESS, TILE, 8))
    canvas.text(lefts[3], top + 13, "-1", 11, FAINT)
    canvas.text(lefts[3] + TILE - 8, top + 13, "1", 11, FAINT)
