"""The dense probe: patches of some images name the classes of patches of others."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

__all__ = ["IGNORED", "Overlap", "as_patches", "majority", "overlap"]

IGNORED = 255
"""The grey value of a mask that belongs to no class."""


def as_patches(pixels: Tensor, patch_px: int) -> Tensor:
    """(n, H, W) as patches in the order of a backbone's tokens, (n, P, p * p)."""
    n, height, width = pixels.shape
    grid = pixels.view(n, height // patch_px, patch_px, width // patch_px, patch_px)
    return grid.transpose(2, 3).reshape(n, -1, patch_px * patch_px)


def majority(pixels: Tensor, classes: int) -> Tensor:
    """The commonest class of each patch (..., p * p) int64, (...); of equally common ones the lowest. IGNORED where no
    pixel has a class."""
    counts = torch.stack([(pixels == number).sum(-1) for number in range(classes)], -1)  # (..., K)
    return torch.where(counts.sum(-1) > 0, counts.argmax(-1), IGNORED)


@attrs.frozen
class Overlap:
    """How well predicted classes cover the true ones, over pixels that have a class."""

    miou: float
    """Mean over classes, of those that are true or predicted anywhere, of intersection over union."""
    pixel_accuracy: float


def overlap(predicted: Tensor, true: Tensor, classes: int) -> Overlap:
    """Of int64 tensors of one shape; pixels whose truth is IGNORED do not count.

    Raises:
        ValueError: no pixel counts.
    """
    counts = true != IGNORED
    predicted, true = predicted[counts], true[counts]
    if not len(true):
        raise ValueError("no pixel has a class")
    confusion = torch.bincount(true * classes + predicted, minlength=classes * classes).view(classes, classes).double()
    both = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - both
    return Overlap(float((both / union)[union > 0].mean()), float(both.sum() / confusion.sum()))
