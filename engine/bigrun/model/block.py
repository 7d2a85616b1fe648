"""One transformer block, with its feed-forward layers, norms, LayerScale and stochastic depth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigrun.model.activation_checkpointing import ActivationCheckpointing, checkpointed
from bigrun.model.attention import Attention
from bigrun.model.groups import Group

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bigrun.model.rope import RopeTable
    from bigrun.sections import Model

__all__ = ["Block", "LayerScale", "Mlp", "RmsNorm", "SwiGlu", "build_norm", "keep_some", "kept_crops"]


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-5) * weight, computed in fp32 (arXiv 1910.07467)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def initialise(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * self.weight


class LayerScale(nn.Module):
    """A learned factor per channel at the end of a residual branch (arXiv 2103.17239)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.gamma = nn.Parameter(torch.empty(width))

    def initialise(self) -> None:
        nn.init.constant_(self.gamma, self.start)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.fc1 = nn.Linear(model.width, model.ffn_hidden, bias=model.ffn_bias)
        self.fc2 = nn.Linear(model.ffn_hidden, model.width, bias=model.ffn_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class SwiGlu(nn.Module):
    """w3(silu(w1 x) * w2 x) (arXiv 2002.05202)."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.w1 = nn.Linear(model.width, model.ffn_hidden, bias=model.ffn_bias)
        self.w2 = nn.Linear(model.width, model.ffn_hidden, bias=model.ffn_bias)
        self.w3 = nn.Linear(model.ffn_hidden, model.width, bias=model.ffn_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))  # type: ignore[no-any-return]


def build_norm(model: Model) -> nn.Module:
    """The norm that `model.norm` names. `layernormbf16` has an eps that survives bf16 weights."""
    if model.norm == "rmsnorm":
        return RmsNorm(model.width)
    return nn.LayerNorm(model.width, eps=1e-5 if model.norm == "layernormbf16" else 1e-6)


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)) (arXiv 2010.11929), each branch scaled and sometimes left out.

    With `activation_checkpointing` the backward pass computes a part of the forward pass again; numbers stay the same.
    """

    activation_checkpointing: ActivationCheckpointing = "none"

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.norm1 = build_norm(model)
        self.attn = Attention(model)
        self.ls1 = _layer_scale(model)
        self.norm2 = build_norm(model)
        self.mlp = SwiGlu(model) if model.ffn == "swiglu" else Mlp(model)
        self.ls2 = _layer_scale(model)

    def forward(
        self, x: Tensor, groups: Sequence[Group], tables: Sequence[RopeTable], kept: Sequence[int] | None = None
    ) -> Tensor:
        """(T, D) -> (T, D): the tokens of all groups, one group after the other.

        kept: of how many crops of each group a branch is computed; None: of all.
        """
        if self.activation_checkpointing == "none" or not torch.is_grad_enabled():
            return self._branches(x, groups, tables, kept)
        return checkpointed(self._branches, self.activation_checkpointing, x, groups, tables, kept)

    def _branches(
        self, x: Tensor, groups: Sequence[Group], tables: Sequence[RopeTable], kept: Sequence[int] | None
    ) -> Tensor:
        def attention(some: Tensor, some_groups: Sequence[Group]) -> Tensor:
            return self.ls1(self.attn(self.norm1(some), some_groups, tables))  # type: ignore[no-any-return]

        def feed_forward(some: Tensor, some_groups: Sequence[Group]) -> Tensor:
            return self.ls2(self.mlp(self.norm2(some)))  # type: ignore[no-any-return]

        if kept is None:
            x = x + attention(x, groups)
            return x + feed_forward(x, groups)
        x = keep_some(attention, x, groups, kept)
        return keep_some(feed_forward, x, groups, kept)


def keep_some(
    branch: Callable[[Tensor, Sequence[Group]], Tensor], x: Tensor, groups: Sequence[Group], kept: Sequence[int]
) -> Tensor:
    """x + branch of so many crops of each group, drawn at random (stochastic depth, arXiv 1603.09382).

    The branch is computed for the kept crops only, and weighs n / kept there, so that its expectation is the whole.
    """
    rows, weights, kept_groups, start = [], [], [], 0
    for group, count in zip(groups, kept, strict=True):
        chosen = torch.randperm(group.crops, device=x.device)[:count]
        tokens = torch.arange(group.tokens, device=x.device)
        rows.append((start + chosen[:, None] * group.tokens + tokens).flatten())
        weights.append(torch.full((count * group.tokens, 1), group.crops / count, device=x.device))
        kept_groups.append(Group(count, group.tokens))
        start += group.rows
    index = torch.cat(rows)  # (T',)
    added = branch(x.index_select(0, index), kept_groups) * torch.cat(weights)
    return x.index_add(0, index, added.to(x.dtype))


def kept_crops(crops: int, drop_fraction: float, draw: float) -> int:
    """How many of the crops keep a branch: crops * (1 - drop_fraction) in the mean over `draw`, which is uniform in
    [0, 1), so that it does not follow the size of the micro-batch as rounding down would. At least one does."""
    return max(math.floor(crops * (1 - drop_fraction) + draw), 1)


def _layer_scale(model: Model) -> nn.Module:
    return nn.Identity() if model.layerscale is None else LayerScale(model.width, model.layerscale)
