"""The Gram loss of DINOv3 (arXiv 2508.10104, section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["gram_loss"]


def gram_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """How far the student's patch similarities are from the Gram teacher's.

    The mean over all entries of (Gs - Gt)^2, where Gs = Fs Fs^T for L2-normalised patch features of one crop. The
    paper writes the squared Frobenius norm; published weights belong to the mean.

    Args:
        student: patch features (n, P, D), with gradients.
        teacher: patch features (n, P, D); receives no gradient.

    Returns:
        A scalar, float32.
    """
    with torch.autocast(student.device.type, enabled=False):
        fs = F.normalize(student.float(), dim=-1)  # (n, P, D)
        ft = F.normalize(teacher.detach().float(), dim=-1)  # (n, P, D)
        difference = fs @ fs.mT - ft @ ft.mT  # (n, P, P)
        return difference.square().mean()
