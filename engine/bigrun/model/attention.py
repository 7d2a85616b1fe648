"""Self-attention over the tokens of several crop sizes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigrun.model.groups import Group, Qkv, rotated_qkv

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bigrun.model.rope import RopeTable
    from bigrun.sections import Model

__all__ = ["Attention", "QkvLinear", "attend_by_group"]


def attend_by_group(groups: Sequence[Qkv]) -> list[Tensor]:
    """Scaled dot-product attention (arXiv 1706.03762), one call per crop size: each (n, h, N, d)."""
    return [F.scaled_dot_product_attention(q, k, v) for q, k, v in groups]


class QkvLinear(nn.Linear):
    """Linear layer to queries, keys and values whose key bias is held at zero.

    A key's bias adds one number to all logits of a query; softmax does not see it.
    """

    bias_mask: Tensor  # (3D,): ones, but zeros for the keys

    def __init__(self, width: int) -> None:
        super().__init__(width, 3 * width)
        self.register_buffer("bias_mask", torch.empty(3 * width))

    def initialise(self) -> None:
        """Set the mask."""
        self.bias_mask.fill_(1.0)
        self.bias_mask.chunk(3)[1].zero_()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias * self.bias_mask)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions.

    `kernel` computes attention from the rotated queries, keys and values of all groups; a plugin may replace it in
    `configure_model` by one that gives the same numbers.
    """

    kernel: Callable[[Sequence[Qkv]], list[Tensor]]

    def __init__(self, model: Model) -> None:
        super().__init__()
        width = model.width
        self.heads = model.heads
        masked = model.qkv_bias and model.mask_k_bias
        self.qkv = QkvLinear(width) if masked else nn.Linear(width, 3 * width, bias=model.qkv_bias)
        self.proj = nn.Linear(width, width, bias=model.proj_bias)
        self.kernel = attend_by_group

    def forward(self, x: Tensor, groups: Sequence[Group], tables: Sequence[RopeTable]) -> Tensor:
        """(T, D) -> (T, D): the tokens of all groups, one group after the other."""
        parts = rotated_qkv(self.qkv(x), self.heads, groups, tables)
        mixed = [out.transpose(1, 2).flatten(2).flatten(0, 1) for out in self.kernel(parts)]  # (n*N, D) each
        return self.proj(torch.cat(mixed) if len(mixed) > 1 else mixed[0])  # type: ignore[no-any-return]
