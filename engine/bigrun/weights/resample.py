"""Another patch size for a patch embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["resample_patch_embedding"]


def resample_patch_embedding(kernel: Tensor, size_px: int) -> Tensor:
    """The kernel (D, C, p, p) for patches of s x s pixels, (D, C, s, s) float32 (FlexiViT, arXiv 2212.08013).

    With B the bicubic resize of a patch from p to s, the new kernel is the pseudo-inverse of B^T applied to the old
    one: a patch that was enlarged gives the token of the patch, exactly (s >= p); one that was reduced gives the
    nearest in the mean square. Resizing the kernel like an image would scale the tokens by about (s / p)^2.
    """
    old = kernel.shape[-1]
    if kernel.is_meta:
        return kernel.new_empty((*kernel.shape[:2], size_px, size_px))
    basis = torch.eye(old * old, dtype=torch.float64, device="cpu").view(-1, 1, old, old)
    resize = F.interpolate(basis, (size_px, size_px), mode="bicubic", align_corners=False).flatten(1)  # B^T: (p^2, s^2)
    inverse = torch.linalg.pinv(resize)  # (s^2, p^2)
    flat: Tensor = kernel.double().cpu().flatten(2) @ inverse.T  # (D, C, s^2)
    return flat.view(*kernel.shape[:2], size_px, size_px).float()
