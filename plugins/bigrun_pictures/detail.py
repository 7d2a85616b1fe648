"""The sheet of one image at a step: every height, every head, and how alike its patches are to each network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bigrun_pictures.canvas import FAINT, Canvas
from bigrun_pictures.overview import mark
from bigrun_pictures.similarity import mean_difference
from bigrun_pictures.tiles import LIKENESS, colours_tile, cosine_tile, heat_tile, image_tile, scale_tile

if TYPE_CHECKING:
    from bigrun_pictures.colours import Painted
    from bigrun_pictures.gather import Look, Sample

__all__ = ["draw_detail"]

TILE, GAP, MARGIN, HEAD, LABEL = 196, 6, 14, 64, 22
TOP_TILE = 256
FEW_HEADS = 4
HEAD_TILE = (TILE - GAP) // 2


def head_grid(heads: int) -> tuple[int, int]:
    """Side of a head's tile, and how many of them are in a row: few are as large as the mean, more are in two rows."""
    return (TILE, heads) if heads <= FEW_HEADS else (HEAD_TILE, math.ceil(heads / 2))


def draw_detail(look: Look, painted: Painted, sample: Sample) -> bytes:
    """A PNG file."""
    side, across = head_grid(sample.attention[0].shape[0])
    heads_width = across * (side + GAP)
    width = 2 * MARGIN + max(3 * (TILE + GAP) + heads_width, (1 + len(sample.grams)) * (TOP_TILE + GAP)) - GAP
    top = HEAD + TOP_TILE + 64
    canvas = Canvas(width, top + LABEL + len(look.blocks) * (TILE + LABEL + GAP) + MARGIN)
    about = f"{sample.position}  {sample.name}"
    canvas.title(MARGIN, 10, look.step, about if look.window is None else f"{about}; {look.window}")
    draw_networks(canvas, look, sample)
    lefts = [MARGIN, MARGIN + TILE + GAP, MARGIN + TILE + GAP + heads_width]
    lefts.append(lefts[2] + TILE + GAP)
    titles = ("attention, mean of heads", "each head", "patch features (PCA)", "cosine to the marked patch")
    for left, title in zip(lefts, titles, strict=True):
        canvas.text(left, top, title, 13, width=TILE)
    for row in range(len(look.blocks)):
        draw_block(canvas, look, painted, sample, row, top + LABEL + row * (TILE + LABEL + GAP), lefts)
    return canvas.png()


def draw_block(
    canvas: Canvas, look: Look, painted: Painted, sample: Sample, row: int, top: int, lefts: list[int]
) -> None:
    """A row of tiles, and what there is to say of the block."""
    attention = sample.attention[row]
    side, across = head_grid(attention.shape[0])
    canvas.tile(lefts[0], top, heat_tile(attention.mean(0), TILE, sample.picture))
    for number, head in enumerate(attention):
        place = lefts[1] + number % across * (side + GAP), top + number // across * (side + GAP)
        canvas.tile(*place, heat_tile(head, side))
    canvas.tile(lefts[2], top, colours_tile(painted.colours[sample.position][row], TILE))
    canvas.tile(lefts[3], top, cosine_tile(sample.similarity[row], TILE))
    mark(canvas, lefts[3], top, TILE, look)
    peak = float(attention.mean(0).max() / attention.mean())
    told = (
        f"block {look.blocks[row]} of {look.depth}: most attention {peak:.1f} x the mean, "
        f"{sample.prefix_share[row]:.1%} goes to class and storage tokens; "
        f"the colours show {painted.explained[row]:.0%} of the variance"
    )
    canvas.text(lefts[0], top + TILE + 3, told, 12, FAINT, canvas.image.width - 2 * MARGIN)


def draw_networks(canvas: Canvas, look: Look, sample: Sample) -> None:
    """The image, and the Gram matrices of all networks on one scale."""
    canvas.tile(MARGIN, HEAD, image_tile(sample.picture, TOP_TILE))
    mark(canvas, MARGIN, HEAD, TOP_TILE, look)
    canvas.text(MARGIN, HEAD - 20, "image", 13)
    order = sorted(sample.grams, key=lambda name: name != "teacher")
    for number, name in enumerate(order, 1):
        left = MARGIN + number * (TOP_TILE + GAP)
        canvas.text(left, HEAD - 20, f"{name}: patch by patch cosine", 13, width=TOP_TILE)
        canvas.tile(left, HEAD, cosine_tile(sample.grams[name], TOP_TILE))
        if name != "teacher":
            difference = mean_difference(sample.grams["teacher"], sample.grams[name])
            canvas.text(
                left, HEAD + TOP_TILE + 4, f"differs from the teacher's by {difference:.3f}", 12, width=TOP_TILE
            )
        else:
            canvas.tile(left, HEAD + TOP_TILE + 8, scale_tile(LIKENESS, TOP_TILE, 8))
            canvas.text(left, HEAD + TOP_TILE + 19, "-1", 11, FAINT)
            canvas.text(left + TOP_TILE - 8, HEAD + TOP_TILE + 19, "1", 11, FAINT)
