"""Hashes of everything that a process has of a checkpoint's tensors: two states with the same ones are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.run import Run

__all__ = ["fingerprints"]


def fingerprints(run: Run) -> dict[str, str]:
    """sha256 of names, types, shapes and values, by group of a checkpoint: student, teacher, optimizer, frozen. Of
    tensors of which several processes have rows, this one's rows; none waits for another."""
    from bigrun.state import gather_tensors

    tensors, _ = gather_tensors(run)
    return {name: fingerprint(members) for name, members in tensors.items()}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    import torch

    from bigrun.shards import local

    whole = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        rows = local(tensor)
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tuple(rows.shape)}\n".encode())
        flat = rows.cpu().contiguous().flatten()  # one at a time: there is no room for a second state
        whole.update(flat.view(torch.uint8).numpy().data)
    return whole.hexdigest()
