"""Tokens of crops of several sizes, one size after the other, and their rotated queries and keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bigrun.model.rope import RopeTable, rotate

__all__ = ["Group", "Qkv", "rotated_qkv"]

Qkv = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values of one group, each (n, h, N, d)."""


class Group(NamedTuple):
    """Crops of one size, of which each has the same number of tokens. A tuple, because torch.compile knows tuples."""

    crops: int
    tokens: int

    @property
    def rows(self) -> int:
        """Tokens of all crops."""
        return self.crops * self.tokens


def rotated_qkv(projected: Tensor, heads: int, groups: Sequence[Group], tables: Sequence[RopeTable]) -> list[Qkv]:
    """Queries, keys and values of each group from (T, 3D), queries and keys rotated by their tokens' places."""
    flat = RotatedQkv.apply(projected, heads, groups, tuple(tables))  # type: ignore[no-untyped-call]
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]


class RotatedQkv(torch.autograd.Function):
    """`rotated_qkv` with its gradient written down.

    The gradient of a rotation is the rotation back, and that of three views is written into one tensor; autograd
    would do both in steps, and move 2 to 3 times the memory. The tables are one argument and no saved tensors: with a
    variable number of arguments torch.compile takes the first for `ctx` where no gradient is recorded.
    """

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, heads: int, groups: Sequence[Group], tables: tuple[RopeTable, ...]
    ) -> tuple[Tensor, ...]:
        ctx.heads, ctx.groups, ctx.tables = heads, groups, tables
        out: list[Tensor] = []
        for part, table in zip(by_group(projected, heads, groups), tables, strict=True):
            out += [*rotate(part[:2], table), part[2]]
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, width = sum(group.rows for group in ctx.groups), ctx.heads * ctx.tables[0][0].shape[-1]
        result = gradients[0].new_empty(rows, 3 * width)
        parts = by_group(result, ctx.heads, ctx.groups)
        for number, (part, (sin, cos)) in enumerate(zip(parts, ctx.tables, strict=True)):
            q, k, v = gradients[3 * number : 3 * number + 3]
            back = -sin, cos
            part[0].copy_(rotate(q, back))
            part[1].copy_(rotate(k, back))
            part[2].copy_(v)
        return result, None, None, None


def by_group(projected: Tensor, heads: int, groups: Sequence[Group]) -> list[Tensor]:
    """(T, 3D) as views (3, n, h, N, d), one for each group."""
    parts = torch.split(projected, [group.rows for group in groups])
    return [
        part.view(group.crops, group.tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        for part, group in zip(parts, groups, strict=True)
    ]
