"""Tensors of which each process has some rows: torch's DTensor, sharded over its first dimension by FSDP2.

Of n rows and S processes the k-th has ceil(n / S), from k * ceil(n / S) on, or what is left; maybe none.
"""

from __future__ import annotations

from typing import Any

import attrs
from torch import Tensor

__all__ = ["Shard", "is_sharded", "local", "own_rows", "place_like", "shard_of"]


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process has a part of it only. (DTensor's module takes 0.7 s to import, which one process saves.)"""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """This process's rows; the tensor itself where it has all."""
    if not is_sharded(tensor):
        return tensor
    rows: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return rows


@attrs.frozen
class Shard:
    """Which of how many shards of a tensor a process has."""

    number: int
    count: int
    is_first_copy: bool
    """Whether no process of a lower rank has the same."""


def shard_of(tensor: Any) -> Shard:
    """This process's shard; a tensor that is not sharded is one."""
    if not is_sharded(tensor):
        return Shard(0, 1, True)
    mesh = tensor.device_mesh
    *copies, number = mesh.get_coordinate()
    return Shard(number, mesh.size(mesh.ndim - 1), not any(copies))


def own_rows(tensor: Tensor) -> slice:
    """Which rows of the whole tensor this process has."""
    shard = shard_of(tensor)
    rows = -(-len(tensor) // shard.count)
    return slice(min(shard.number * rows, len(tensor)), min((shard.number + 1) * rows, len(tensor)))


def place_like(whole: Tensor, target: Tensor) -> Tensor:
    """A copy of a whole tensor with the target's shape, on its device and sharded as it is; the type is kept."""
    if not is_sharded(target):
        return whole.to(target.device, copy=True)
    from torch.distributed.tensor import DTensor

    layout: Any = target
    mine = whole[own_rows(target)].to(local(target).device, copy=True)
    return DTensor.from_local(
        mine, layout.device_mesh, layout.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )
