"""Queries, keys and values: one linear layer, or three."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["has_key_bias", "join", "join_bias", "split", "without_key_bias"]


def split(joined: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(3D, ...) -> three of (D, ...): queries, keys, values. Copies: a file is not written from shared storage."""
    q, k, v = (part.clone() for part in joined.chunk(3))
    return q, k, v


def join(own: dict[str, Tensor], attention: str) -> None:
    """Make three layers `<attention>q`, `k`, `v` the one `<attention>qkv`, unless one of them is missing."""
    if not all(f"{attention}{part}.weight" in own for part in "qkv"):
        return
    own[attention + "qkv.weight"] = torch.cat([own.pop(f"{attention}{part}.weight") for part in "qkv"])
    biases = [own.pop(f"{attention}{part}.bias", None) for part in "qkv"]
    if any(bias is not None for bias in biases):
        own[attention + "qkv.bias"] = join_bias(*biases)


def join_bias(q: Tensor | None, k: Tensor | None, v: Tensor | None) -> Tensor:
    """The bias (3D,) of the joined layer from up to three of (D,); one that is not there is zero."""
    given = next(part for part in (q, k, v) if part is not None)
    return torch.cat([torch.zeros_like(given) if part is None else part for part in (q, k, v)])


def without_key_bias(bias: Tensor) -> Tensor:
    """A bias (3D,) whose second third is zero, whatever stood there."""
    q, _, v = split(bias)
    return join_bias(q, None, v)


def has_key_bias(bias: Tensor) -> bool:
    """Whether the second third of (3D,) says anything; of a meta tensor that is not known, and False."""
    return not bias.is_meta and bool(split(bias)[1].any())
