"""Sinkhorn-Knopp balancing of prototype assignments, in the log domain and in one pass over the rows per iteration.

SwAV (arXiv 2006.09882, section 3.1) scales Q = exp(X / T) by prototype and by sample in turn. Constants cancel, and
the last scaling by sample is a softmax:

    targets = softmax_k(X / T + r)

    r_k = -ln sum_i exp(X_ik / T + c_i)      once per iteration, with c = 0 in the first,
    c_i = -ln sum_k exp(X_ik / T + r_k)      between iterations

Put together, every iteration but the first is r <- r - ln(column sums of softmax(X / T + r)). Two reasons for this
form: exp(X / T) overflows fp32 for logits above 3.5 at T = 0.04, and only the K numbers of r have to travel between
micro-batches and processes. No column sum underflows: after an iteration the largest entry of a column is at least
1 / n of it, and a row sum at most K, so each is at least 1 / (n K).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["sinkhorn_bias"]


@torch.no_grad()
def sinkhorn_bias(
    chunks: Callable[[], Iterable[Tensor]],
    temperature: float,
    iterations: int = 3,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The bias r of the prototypes that balances all rows together.

    Args:
        chunks: yields the teacher's logits (m, K) of this process's rows, in any split. It is called once per
            iteration, so that logits can be computed again instead of kept.
        temperature: T of the teacher.
        iterations: rounds, at least 1.
        group: processes whose rows are balanced together; None: this one's alone.

    Returns:
        r (K,), float32.
    """
    bias = -log_masses(chunks(), temperature, group)
    for _ in range(iterations - 1):
        masses = torch.zeros_like(bias)
        for chunk in chunks():
            masses += torch.softmax(torch.add(bias, chunk.float(), alpha=1 / temperature), dim=1).sum(0)
        if group is not None:
            dist.all_reduce(masses, group=group)
        bias = bias - masses.log()
    return bias


def log_masses(chunks: Iterable[Tensor], temperature: float, group: dist.ProcessGroup | None) -> Tensor:
    """ln sum_i exp(X_ik / T): (K,), float32."""
    total = functools.reduce(torch.logaddexp, (torch.logsumexp(chunk.float() / temperature, dim=0) for chunk in chunks))
    if group is None:
        return total
    highest = total.clone()
    dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=group)
    shifted = (total - highest).exp()
    dist.all_reduce(shifted, group=group)
    return highest + shifted.log()
