"""Bytes of the collectives that a process calls, as torch's dispatcher sees them: DDP's reducer and FSDP2 included."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

__all__ = ["Collectives"]

OPERATIONS = {
    "allreduce_": "all-reduce",
    "_allgather_base_": "all-gather",
    "_reduce_scatter_base_": "reduce-scatter",
}


class Collectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The payload of each collective of floats, the largest of its tensors, by operation and in order; what processes
    agree about is whole numbers, and not counted."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            tensors = [found for found in tree_iter(args) if hasattr(found, "nbytes")]
            if tensors and all(tensor.is_floating_point() for tensor in tensors):
                operation = OPERATIONS[func._schema.name.partition("::")[2]]
                self.found.setdefault(operation, []).append(max(tensor.nbytes for tensor in tensors))
        return func(*args, **(kwargs or {}))
