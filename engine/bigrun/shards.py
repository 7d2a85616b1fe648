"""Tensors of which each process has some rows: torch's DTensor, sharded over its first dimension by FSDP2."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from bigrun.rows import rows_of

__all__ = ["Shard", "is_sharded", "local", "own_rows", "place", "rows_of", "shard_of", "whole"]


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
    return rows_of(len(tensor), shard.number, shard.count)


def whole(tensor: Tensor) -> Tensor:
    """All rows, from the processes that have them: each calls this, in the same order."""
    if not is_sharded(tensor):
        return tensor
    gathered: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return gathered


def place(rows: Tensor, target: Tensor) -> Tensor:
    """This process's rows of a whole tensor, as one that is sharded as the target of its shape is, and on its device;
    the type is kept, memory is shared where the device is the same."""
    from torch.distributed.tensor import DTensor

    layout: Any = target
    return DTensor.from_local(
        rows.to(local(target).device),
        layout.device_mesh,
        layout.placements,
        run_check=False,
        shape=target.shape,
        stride=torch.empty(target.shape, device="meta").stride(),  # the target's own may be of another layout
    )
