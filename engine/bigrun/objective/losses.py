"""Losses between student and teacher outputs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["dino_loss"]


def dino_loss(student: Tensor, target: Tensor, temperature: float, ignore_diagonal: bool) -> Tensor:
    """Cross-entropy between every crop of the student and every crop of the teacher, of the same image.

        -mean over pairs (s, t) and images i of sum_k target[t, i, k] * ln softmax(student[s, i] / T)_k

    (arXiv 2104.14294, eq. 3.) The sum over pairs is the product of the sums, so no pair is ever formed.

    Args:
        student: logits (ns, b, K) of any float type.
        target: probabilities (nt, b, K), float32; rows sum to 1.
        temperature: T of the student.
        ignore_diagonal: leave out the pairs s == t, where both saw the same crop.

    Returns:
        Scalar, float32.
    """
    log_probabilities = F.log_softmax(student.float() / temperature, dim=-1)  # (ns, b, K)
    pairs = len(student) * len(target)
    total = (log_probabilities.sum(0) * target.sum(0)).sum()  # (b, K) -> ()
    if ignore_diagonal:
        same = min(len(student), len(target))
        pairs -= same
        total = total - (log_probabilities[:same] * target[:same]).sum()
    return -total / (pairs * student.shape[1])
