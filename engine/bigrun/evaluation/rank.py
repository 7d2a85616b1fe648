"""RankMe: how many dimensions features really use (arXiv 2210.02885, eq. 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["rank_me"]

EPSILON = 1e-7


def rank_me(tokens: Tensor) -> float:
    """exp of the entropy of the singular values over their sum, of directions (N, D) that are not centred: 1 to
    min(N, D).

    Centred, features that are constant but for a little noise would have full rank. NaN where a feature is not finite,
    or all are zero.
    """
    if not torch.isfinite(tokens).all():
        return float("nan")
    directions = F.normalize(tokens.double(), dim=1)
    small = directions.mT @ directions if directions.shape[0] > directions.shape[1] else directions @ directions.mT
    values = torch.linalg.eigvalsh(small).clamp(min=0).sqrt()
    shares = values / values.sum() + EPSILON
    return float(torch.exp(-(shares * shares.log()).sum()))
