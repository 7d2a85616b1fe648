"""The dense probe: patches of some images name the classes of patches of others."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

__all__ = ["IGNORED", "Overlap", "as_patches", "confusion", "majority", "overlap", "overlap_of"]

IGNORED = 255
"""The grey value of a mask that belongs to no class."""


def as_patches(pixels: Tensor, patch_px: int) -> Tensor:
    """(n, H, W) as patches in the order of a backbone's tokens, (n, P, p * p)."""
    n, height, width = pixels.shape
    grid = pixels.view(n, height // patch_px, patch_px, width // patch_px, patch_px)
    return grid.transpose(2, 3).reshape(n, -1, patch_px * patch_px)


def majority(pixels: Tensor, classes: int) -> Tensor:
    """The commonest class of each patch (..., p * p), (...) int64; of equally common ones the lowest. IGNORED where no
    pixel has a class."""
    named = torch.full(pixels.shape[:-1], IGNORED)
    most = torch.zeros(pixels.shape[:-1], dtype=torch.int64)
    for number in range(classes):
        count = (pixels == number).sum(-1)
        named = torch.where(count > most, number, named)
        most = torch.maximum(most, count)
    return named


@attrs.frozen
class Overlap:
    """How well predicted classes cover the true ones, over pixels that have a class."""

    miou: float
    """Mean over classes, of those that are true or predicted anywhere, of intersection over union."""
    pixel_accuracy: float


def overlap(predicted: Tensor, true: Tensor, classes: int) -> Overlap:
    """Of integers in tensors of one shape. Raises ValueError as `overlap_of`."""
    return overlap_of(confusion(predicted, true, classes))


def confusion(predicted: Tensor, true: Tensor, classes: int) -> Tensor:
    """(K, K) int64, how many pixels of a true class (row) were named as a class (column); those whose truth is IGNORED
    do not count. What was counted of parts may be added up."""
    counts = true != IGNORED
    pairs = true[counts].long() * classes + predicted[counts].long()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def overlap_of(counted: Tensor) -> Overlap:
    """Of a `confusion`.

    Raises:
        ValueError: no pixel counts.
    """
    if not bool(counted.any()):
        raise ValueError("no pixel has a class")
    counted = counted.double()
    both = counted.diagonal()
    union = counted.sum(0) + counted.sum(1) - both
    return Overlap(float((both / union)[union > 0].mean()), float(both.sum() / counted.sum()))
