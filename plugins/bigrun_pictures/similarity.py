"""How alike the patches of an image are."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LARGEST_GRID", "entropy_fraction", "gram", "mean_difference", "patch_at", "similarity_to"]

LARGEST_GRID = 32
"""Rows and columns of patches of which a Gram matrix is made; of more, evenly spread ones: 4 MiB at most."""


def patch_at(place: tuple[float, float], grid: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the patch at [x, y], each 0 to 1."""
    (x, y), (rows, columns) = place, grid
    return min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)


def similarity_to(patches: Tensor, row: int, column: int, grid: tuple[int, int]) -> Tensor:
    """Cosines of all patches (n, P, D) with one of the same image: (n, Hp, Wp)."""
    directions = F.normalize(patches, dim=-1)
    chosen = directions[:, row * grid[1] + column]  # (n, D)
    return (directions @ chosen[..., None])[..., 0].view(-1, *grid)


def gram(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cosines of all pairs of patches of an image: (n, P, D) to (n, Q, Q), row by row of the grid."""
    step = math.ceil(max(grid) / LARGEST_GRID)
    some = patches.view(len(patches), *grid, -1)[:, step // 2 :: step, step // 2 :: step].flatten(1, 2)
    directions = F.normalize(some, dim=-1)
    return directions @ directions.mT


def mean_difference(a: Tensor, b: Tensor) -> float:
    """Mean absolute difference of two Gram matrices: 0 where both see the same patches alike, 2 at most."""
    return float((a - b).abs().mean())


def entropy_fraction(attention: Tensor) -> float:
    """Entropy of attention (..., P) to P patches, as shares of its sum over them, over ln P: the mean over all rows.

    1: to every patch alike; 0: to one. Undefined for one patch: 0.
    """
    shares = attention / attention.sum(-1, keepdim=True)
    entropy = torch.special.entr(shares).sum(-1).mean()
    return float(entropy) / max(math.log(attention.shape[-1]), 1e-9)
