"""Hashes of everything that a checkpoint holds in tensors: two states with the same ones are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.run import Run

__all__ = ["fingerprints"]


def fingerprints(run: Run) -> dict[str, str]:
    """sha256 of names, types, shapes and values, by file of a checkpoint: student, teacher, optimizer, frozen."""
    from bigrun.state import gather_tensors

    tensors, _ = gather_tensors(run)
    return {name: fingerprint(members) for name, members in tensors.items()}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    import torch

    whole = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.cpu().contiguous().flatten()  # one at a time: there is no room for a second state
        whole.update(flat.view(torch.uint8).numpy().data)
    return whole.hexdigest()
