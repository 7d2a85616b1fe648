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

__all__ = ["Attention", "QkvLinear", "attend_by_group", "attend_by_products"]

# Tokens up to which two matrix products beat torch's fused kernel in bf16 on a CPU. Forward and backward, 6 heads of
# 64, one core of an AMD EPYC with AVX512-BF16, torch 2.13: 41 tokens 13 ms against 98, 201 tokens 47 against 118, 1029
# tokens 922 against 996; in fp32 the fused kernel is as fast or faster.
PRODUCT_TOKENS = 512


def attend_by_group(groups: Sequence[Qkv]) -> list[Tensor]:
    """Scaled dot-product attention (arXiv 1706.03762), one call per crop size: each (n, h, N, d)."""
    return [attend(q, k, v) for q, k, v in groups]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if q.device.type == "cpu" and q.dtype is torch.bfloat16 and q.shape[2] <= PRODUCT_TOKENS:
        return attend_by_products(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same as two matrix products with a softmax between them, in the type of `q`."""
    with torch.autocast(q.device.type, enabled=False):  # it would have a softmax in fp32, of twice the size
        weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT, dim=-1)  # (n, h, N, N)
        return weights @ v


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
