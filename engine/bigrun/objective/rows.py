"""Rows of crops and patches, taken out of the tensors that a network gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from bigrun.data.masking import Masks

__all__ = ["by_crop", "masked"]


def masked(patches: Tensor, masks: Masks) -> Tensor:
    """The masked ones of patch tokens (Nc, P, D): (M, D)."""
    return patches.flatten(0, 1).index_select(0, masks.indices)


def by_crop(rows: Tensor, crops: int) -> Tensor:
    """(crops*b, K), crop-major -> (crops, b, K)."""
    return rows.view(crops, -1, rows.shape[-1])
