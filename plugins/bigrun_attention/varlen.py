"""torch's own attention over sequences of several lengths (torch.nn.attention.varlen, torch 2.10 and later)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from bigrun_attention.packing import starts_of

if TYPE_CHECKING:
    from bigrun.model.groups import Group
    from bigrun_attention.kernel import Attend

__all__ = ["build_varlen"]


def build_varlen() -> Attend:
    """
    Raises:
        ImportError: torch is older than 2.10.
    """
    from torch.nn.attention.varlen import varlen_attn

    def attend(q: Tensor, k: Tensor, v: Tensor, groups: tuple[Group, ...]) -> Tensor:
        starts, longest = starts_of(groups, q.device), max(group.tokens for group in groups)
        return varlen_attn(q, k, v, starts, starts, longest, longest)  # type: ignore[return-value]

    return attend
