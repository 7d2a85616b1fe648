"""The Gram loss of DINOv3 (arXiv 2508.10104, section 4)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["gram_loss", "resize_tokens", "select"]


def gram_loss(
    student: Tensor,
    teacher: Tensor,
    level: Literal["image", "batch"] = "image",
    *,
    normalise: bool = True,
    negatives: Literal["keep", "clamp", "clamp-teacher"] = "keep",
) -> Tensor:
    """How far the student's patch similarities are from the Gram teacher's.

    The mean over all entries of (Gs - Gt)^2, where G = F F^T for the patch features F of one crop, or of all crops
    together. The paper writes the squared Frobenius norm; published weights belong to the mean.

    Args:
        student: patch features (n, P, D), with gradients.
        teacher: patch features (n, P, D); receives no gradient.
        level: "image": n matrices of P x P; "batch": one of nP x nP.
        normalise: features have length 1, so that entries are cosines.
        negatives: "clamp" sets the entries below 0 of both to 0. "clamp-teacher" sets the teacher's to 0, and the
            student's where both are below 0: what the teacher finds unlike need not be made orthogonal, but what it
            finds unlike may not become alike.

    Returns:
        A scalar, float32; 0 for no patches.
    """
    with torch.autocast(student.device.type, enabled=False):
        fs, ft = student.float(), teacher.detach().float()  # (n, P, D)
        if level == "batch":
            fs, ft = fs.flatten(0, 1)[None], ft.flatten(0, 1)[None]  # (1, n*P, D)
        if normalise:
            fs, ft = F.normalize(fs, dim=-1), F.normalize(ft, dim=-1)
        # |Fs^T Fs|^2 + |Ft^T Ft|^2 - 2 |Fs^T Ft|^2 needs no P x P matrix, but cancels: in fp32 it is wrong by 0.1 %
        # where the loss is 1e-5 and by 100 % where it is 1e-7 (P = 2304, D = 1024); this form by 1e-7 of its value.
        gs, gt = fs @ fs.mT, ft @ ft.mT  # (n, P, P)
        if negatives == "clamp":
            gs, gt = gs.clamp(min=0), gt.clamp(min=0)
        elif negatives == "clamp-teacher":
            gs = gs.masked_fill((gs < 0) & (gt < 0), 0)  # before the teacher's sign is lost
            gt = gt.clamp(min=0)
        return (gs - gt).square().sum() / max(gs.numel(), 1)


def resize_tokens(tokens: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Patch features of one grid on another: bicubic, without antialiasing (arXiv 2508.10104, section 4.3).

    Args:
        tokens: (n, P1, D), row-major, of any float type.
        grid: (H1, W1) with P1 = H1 * W1.
        to: (H2, W2).

    Returns:
        (n, H2 * W2, D), float32; the tokens' own values where the grids are equal.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        tokens = tokens.float()
        if grid == to:
            return tokens
        maps = tokens.mT.reshape(len(tokens), -1, *grid)  # (n, D, H1, W1)
        maps = F.interpolate(maps, to, mode="bicubic", align_corners=False, antialias=False)
        return maps.flatten(2).mT


def select(tokens: Tensor, which: Literal["all", "masked", "unmasked"], masks: Tensor | None) -> Tensor:
    """Patch features by whether they were hidden from the student.

    Args:
        tokens: (n, P, D).
        masks: (n, P) bool, true where hidden; not needed for all.

    Returns:
        (n, P, D) for all, else (1, M, D).

    Raises:
        ValueError: masks are needed and there are none.
    """
    if which == "all":
        return tokens
    if masks is None:
        raise ValueError(f"the objective hides no patches, so none can be told to be {which}")
    return tokens[masks if which == "masked" else ~masks][None]
