"""Teacher targets by Sinkhorn-Knopp, in the log domain and in one pass over the rows per iteration.

SwAV (arXiv 2006.09882, section 3.1) scales Q = exp(X / T) by prototype and by sample in turn. Constants cancel, and
the last scaling by sample is a softmax:

    targets = softmax_k(X / T + r)

    r_k = -ln sum_i exp(X_ik / T + c_i)      once per iteration, with c = 0 in the first,
    c_i = -ln sum_k exp(X_ik / T + r_k)      between iterations

Two reasons for this form: exp(X / T) overflows fp32 for logits above 3.5 at T = 0.04, and only the K numbers of r
have to travel between micro-batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["sinkhorn_bias", "targets"]


@torch.no_grad()
def sinkhorn_bias(chunks: Callable[[], Iterable[Tensor]], temperature: float, iterations: int = 3) -> Tensor:
    """The bias r of the prototypes that balances all rows together.

    Args:
        chunks: yields the teacher's logits (m, K) of all rows, in any split. It is called once per iteration, so
            that logits can be computed again instead of kept.
        temperature: T of the teacher.
        iterations: rounds, at least 1.

    Returns:
        r (K,), float32.
    """
    bias = _balance(chunks(), temperature, None)
    for _ in range(iterations - 1):
        bias = _balance(chunks(), temperature, bias)
    return bias


def targets(logits: Tensor, temperature: float, bias: Tensor) -> Tensor:
    """softmax(logits / T + bias): (n, K) -> (n, K) float32, rows sum to 1."""
    return torch.softmax(logits.float() / temperature + bias, dim=-1)


def _balance(chunks: Iterable[Tensor], temperature: float, bias: Tensor | None) -> Tensor:
    """The next r (K,) from the last one; None stands for c = 0."""
    masses = []
    for chunk in chunks:
        rows = chunk.float() / temperature  # (m, K)
        if bias is not None:
            rows = rows - torch.logsumexp(rows + bias, dim=1, keepdim=True)
        masses.append(torch.logsumexp(rows, dim=0))  # (K,)
    return -torch.logsumexp(torch.stack(masses), dim=0)
