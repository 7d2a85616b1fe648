"""Block-wise masks over the patches of global crops (arXiv 2106.08254, section 2.3; 2304.07193, section 4).

Masks are drawn on the host, for all crops of an optimizer step together: how a step is split into micro-batches or
over processes does not change what is masked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bigrun.data.transfer import transfer

if TYPE_CHECKING:
    from bigrun.sections import Masking

__all__ = ["Masks", "block_masks", "crop_masks"]

ATTEMPTS = 10

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@attrs.frozen(eq=False)
class Masks:
    """The masks of one micro-batch of Nc = G*b global crops, and where their M masked patches are."""

    patches: Tensor  # (Nc, P) bool, crop-major
    indices: Tensor  # (M,) int64: positions in the flattened (Nc * P)
    weights: Tensor  # (M,) float32: 1 / masked patches of the same crop

    @classmethod
    def of(cls, masks: Bools, device: torch.device) -> Masks:
        """Put masks (Nc, P) on a device."""
        counts = masks.sum(1)
        weights = np.repeat(1 / np.maximum(counts, 1), counts)
        (_, patches), (_, indices), (shares, _) = transfer([masks, np.flatnonzero(masks), weights], device)
        return cls(patches.bool(), indices, shares)


def crop_masks(crops: int, grid: tuple[int, int], section: Masking, generator: np.random.Generator) -> Bools:
    """Masks (crops, P) of all global crops of a step, in random order.

    floor(crops * crop_fraction) of them are masked. The i-th of these hides floor(P * r_i) patches, where r climbs in
    equal steps from the lower to the upper bound of `ratio` and the lower bound itself is left out; the others hide
    nothing. So every step hides the same number of patches.
    """
    patches, masked = grid[0] * grid[1], int(crops * section.crop_fraction)
    ladder = np.linspace(*section.ratio, masked + 1)[1:]
    blocks = block_masks((patches * ladder).astype(np.int64), grid, section, generator)
    if section.shift:
        for block, (down, right) in zip(blocks, generator.integers(0, grid, (masked, 2)), strict=True):
            block[:] = np.roll(block, (int(down), int(right)), axis=(0, 1))
    masks = np.zeros((crops, patches), dtype=np.bool_)
    masks[generator.permutation(crops)[:masked]] = generator.permutation(blocks.reshape(masked, patches))
    return masks


def block_masks(counts: Ints, grid: tuple[int, int], section: Masking, generator: np.random.Generator) -> Bools:
    """Masks (n, Hp, Wp) of exactly `counts` (n,) patches: random rectangles as long as one fits, single patches after.

    A rectangle's area is uniform from `min_block_patches` to what is missing, at most half of the rows; its aspect
    ratio is log-uniform. It must leave a row and a column free and add no more than is missing. After ten in a row
    that do not fit, the rest are patches chosen uniformly.
    """
    height, width = grid
    masks = np.zeros((len(counts), height, width), dtype=np.bool_)
    failures = np.zeros(len(counts), dtype=np.int64)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    cap = max(height // 2 * width, 1)
    while True:
        missing = counts - masks.sum((1, 2))
        todo = np.flatnonzero((missing > 0) & (failures < ATTEMPTS))
        if not todo.size:
            break
        room = np.minimum(missing[todo], cap)
        tall, wide, top, left = rectangles(room, grid, section, generator.random((len(todo), 4)))
        inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)  # (m, Hp, Wp)
        added = (inside & ~masks[todo]).sum((1, 2))
        fits = (tall < height).ravel() & (wide < width).ravel() & (added > 0) & (added <= room)
        masks[todo[fits]] |= inside[fits]
        failures[todo] = np.where(fits, 0, failures[todo] + 1)
    return completed(masks, counts, generator)


def rectangles(
    room: Ints, grid: tuple[int, int], section: Masking, draws: npt.NDArray[np.float64]
) -> tuple[Ints, Ints, Ints, Ints]:
    """Height, width, top and left of one rectangle per row of `draws` (m, 4), each (m, 1, 1)."""
    area = section.min_block_patches + draws[:, 0] * (room - section.min_block_patches)
    aspect = section.block_aspect ** (1 - 2 * draws[:, 1])
    tall, wide = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    top = np.floor(draws[:, 2] * np.maximum(grid[0] - tall + 1, 1))
    left = np.floor(draws[:, 3] * np.maximum(grid[1] - wide + 1, 1))
    tall, wide, top, left = (v.astype(np.int64)[:, None, None] for v in (tall, wide, top, left))
    return tall, wide, top, left


def completed(masks: Bools, counts: Ints, generator: np.random.Generator) -> Bools:
    """Masks (n, Hp, Wp) with free patches, chosen uniformly, added until each has its count."""
    flat = masks.reshape(len(masks), masks.shape[1] * masks.shape[2])
    order = np.where(flat, -1.0, generator.random(flat.shape)).argsort(1)  # the masked first
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(flat.shape[1])[None], 1)
    return (ranks < counts[:, None]).reshape(masks.shape)
