"""Cross-entropy between a student's and a teacher's prototype assignments, without ever holding all logits.

With K = 65,536 prototypes, the logits of a step of 16 images are 1,100 rows of 256 KiB, and autograd would keep three
of such tensors. Here loss and gradient are computed together, some rows at a time: what stays is the gradient of the
bottlenecks (n, e) and of the prototypes (K, e).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bigrun.objective.targets import KEPT_ELEMENTS, Targets, logits_of, parts, rows_at_once

__all__ = ["cross_entropy"]


def cross_entropy(
    student: Tensor, prototypes: Tensor, targets: Targets, pairs: Tensor, weights: Tensor, temperature: float
) -> Tensor:
    """-sum over crops v, u and rows i of  pairs[v, u] * weights[i] * sum_k t[u, i, k] ln softmax(s[v, i] / T)_k

    where s[v, i] are the student's logits, `student[v, i]` times the prototypes, and t the targets. Products are in
    autocast's type, everything after them in fp32.

    Args:
        student: bottlenecks (V, n, e).
        prototypes: of the student (K, e).
        targets: of the teacher, for G crops of the same n rows.
        pairs: (V, G) float32, or (1, G) for the same weights of all V.
        weights: (n,) float32.
        temperature: T of the student.

    Returns:
        Scalar, float32. Can be differentiated with respect to `student` and `prototypes`, again after `retain_graph`.
    """
    if not torch.is_grad_enabled():  # a Function does not look at that
        student, prototypes = student.detach(), prototypes.detach()
    loss: Tensor = ChunkedCrossEntropy.apply(student, prototypes, targets, pairs, weights, temperature)  # type: ignore[no-untyped-call]
    return loss


class ChunkedCrossEntropy(torch.autograd.Function):
    """The gradient of the loss with respect to logits / T is (mass * softmax - target), where `target` is the weighted
    sum of the teacher's rows and `mass` the sum of their weights."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        prototypes: Tensor,
        targets: Targets,
        pairs: Tensor,
        weights: Tensor,
        temperature: float,
    ) -> Tensor:
        kind, (views, count, _), k = student.device.type, student.shape, len(prototypes)
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else student.dtype
        step = rows_at_once(max(views, len(targets.bottlenecks)) * k, student.device)
        loss, wanted = torch.zeros((), device=student.device), any(ctx.needs_input_grad[:2])
        d_student, d_prototypes = torch.empty_like(student), torch.zeros_like(prototypes)
        with torch.autocast(kind, enabled=False):
            rows, columns = student.to(dtype), prototypes.to(dtype)
            for block in parts(0, count, max(KEPT_ELEMENTS // (views * k), 1)):
                gradient = student.new_empty((views, (block.stop - block.start) * wanted, k), dtype=dtype)
                for part in parts(block.start, block.stop, step):
                    logits = logits_of(rows[:, part], columns).float().div_(temperature)  # (V, m, K)
                    target = weighted_sum(pairs, targets.rows(part))  # (V or 1, m, K)
                    logarithms, weight = F.log_softmax(logits, dim=-1), weights[part]
                    loss -= ((logarithms * target).sum(-1) * weight).sum()
                    if not wanted:
                        continue
                    slope = logarithms.exp_().mul_(pairs.sum(1)[:, None, None]).sub_(target)
                    slope.mul_(weight[:, None] / temperature)
                    gradient[:, part.start - block.start : part.stop - block.start] = slope
                if wanted:
                    flat = gradient.flatten(0, 1)  # (V * m, K)
                    d_student[:, block] = (flat @ columns).view(views, block.stop - block.start, columns.shape[1])
                    d_prototypes += (flat.mT @ rows[:, block].flatten(0, 1)).to(prototypes.dtype)
        ctx.gradients = (d_student, d_prototypes)
        return loss

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = outputs
        d_student, d_prototypes = ctx.gradients
        if torch._C._autograd._get_current_graph_task_keep_graph():  # retain_graph: they will be asked for again
            return d_student * scale, d_prototypes * scale, None, None, None, None
        del ctx.gradients  # a second backward would scale them twice
        return d_student.mul_(scale), d_prototypes.mul_(scale), None, None, None, None


def weighted_sum(pairs: Tensor, rows: Tensor) -> Tensor:
    """pairs (V, G) times rows (G, m, K): (V, m, K)."""
    total: Tensor = torch.tensordot(pairs, rows, dims=1)
    return total
