"""Groups of crops as one packed sequence, the form of kernels for sequences of several lengths."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bigrun.model.groups import Group

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["groups_of", "lengths_of", "pack", "starts_of", "unpack"]


def groups_of(tensors: Sequence[Tensor]) -> tuple[Group, ...]:
    """Crops and tokens of tensors (n, h, N, d)."""
    return tuple(Group(tensor.shape[0], tensor.shape[2]) for tensor in tensors)


def lengths_of(groups: Sequence[Group]) -> list[int]:
    """Tokens of every sequence: each crop is one."""
    return [group.tokens for group in groups for _ in range(group.crops)]


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """(n, h, N, d) of each group -> (T, h, d), T = sum of n*N: the order that the engine's tokens have between its
    linear layers. The last dimension is dense; that of one group alone may be a view."""
    rows = [tensor.transpose(1, 2).flatten(0, 1) for tensor in tensors]
    return torch.cat(rows) if len(rows) > 1 else rows[0]


def unpack(packed: Tensor, groups: Sequence[Group]) -> list[Tensor]:
    """(T, h, d) -> (n, h, N, d) of each group, views."""
    parts = torch.split(packed, [group.rows for group in groups])
    return [
        part.view(group.crops, group.tokens, *part.shape[1:]).transpose(1, 2)
        for part, group in zip(parts, groups, strict=True)
    ]


def starts_of(groups: tuple[Group, ...], device: torch.device) -> Tensor:
    """Where each sequence begins, and the end of the last one: (sequences + 1,) int32, built once for the same groups
    and device; a compiled graph, in which crops and tokens may be symbols, builds it itself."""
    return build_starts(groups, device) if torch.compiler.is_compiling() else _built_starts(groups, device)


def build_starts(groups: tuple[Group, ...], device: torch.device) -> Tensor:
    """By operators of the device, so that nothing waits for a copy to it."""
    parts, start = [], 0
    for group in groups:
        parts.append(start + group.tokens * torch.arange(group.crops, device=device, dtype=torch.int32))
        start += group.rows
    return torch.cat([*parts, torch.full((1,), start, device=device, dtype=torch.int32)])


@functools.lru_cache(maxsize=128)  # some sets of shapes in a run: global and local, teacher, kept crops, extra views
def _built_starts(groups: tuple[Group, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):  # who comes first may infer, and the student saves it for its backward pass
        return build_starts(groups, device)
