"""An attention kernel that takes the crops of all sizes in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from bigrun.model.attention import attend_by_group
from bigrun.model.groups import Group, Qkv
from bigrun_attention.packing import groups_of, pack, unpack

__all__ = ["Attend", "PackedAttention"]

Attend = Callable[[Tensor, Tensor, Tensor, tuple[Group, ...]], Tensor]
"""Attention within each sequence of packed queries, keys and values (T, h, d) of groups of crops: (T, h, d)."""


@attrs.frozen
class PackedAttention:
    """A `kernel` of `bigrun.model.attention.Attention`.

    It is proven for one type on one kind of device; tensors of another have the engine's own attention, as in a plugin
    that looks at the teacher in fp32.
    """

    attend: Attend
    dtype: torch.dtype
    device_type: str

    def __call__(self, groups: Sequence[Qkv]) -> list[Tensor]:
        """Queries, keys and values (n, h, N, d) of each group -> (n, h, N, d) of each group."""
        first = groups[0][0]
        if first.dtype is not self.dtype or first.device.type != self.device_type:
            return attend_by_group(groups)
        shapes = groups_of([q for q, _, _ in groups])
        q, k, v = (pack(tensors) for tensors in zip(*groups, strict=True))
        return unpack(self.attend(q, k, v, shapes), shapes)
