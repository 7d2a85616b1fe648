"""What is allocated while torch computes, by category, and the moment at which it was most."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from bigrun.planner.memory import COPIES, HEADS, WEIGHTS, Memory

__all__ = ["LiveBytes"]


@attrs.define(eq=False)
class Allocation:
    """One storage."""

    bytes: int
    category: str
    storage: weakref.ref[torch.UntypedStorage]


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage that an operator returns, from its birth to its death.

    It looks at outputs only, so it does not see what a kernel allocates and frees within. Under `FakeTensorMode` sizes
    are those of the real step and nothing is computed. Enter it inside of that mode.
    """

    def __init__(self, rounding_bytes: int) -> None:
        """`rounding_bytes`: an allocation takes a multiple; 512 on CUDA, 1 for what a CPU is asked for."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.rounding_bytes = rounding_bytes
        self.category = HEADS
        """Of what is allocated next."""
        self.now: dict[str, int] = {}
        self.bytes = 0
        self.peak = Memory(0, {})
        self._live: dict[int, Allocation] = {}

    @contextlib.contextmanager
    def during(self, category: str) -> Iterator[None]:
        """What is allocated inside belongs to the category."""
        before, self.category = self.category, category
        try:
            yield
        finally:
            self.category = before

    def label(self, tensor: Tensor, category: str) -> None:
        """Say what a tensor that is alive is; one that is new is counted."""
        storage = tensor.untyped_storage()
        allocation = self._live.get(storage._cdata)
        if allocation is None:
            self._add(storage, category)
        else:
            self._count(allocation.category, -allocation.bytes)
            allocation.category = category
            self._count(category, allocation.bytes)

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak = Memory(self.bytes, dict(self.now))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        category = COPIES if func is torch.ops.aten._to_copy.default and self._is_weight(args[0]) else self.category
        for found in tree_iter(out):
            if isinstance(found, Tensor) and not found.is_meta:
                storage = found.untyped_storage()
                if storage._cdata not in self._live:
                    self._add(storage, category)
        return out

    def _is_weight(self, tensor: Tensor) -> bool:
        allocation = self._live.get(tensor.untyped_storage()._cdata)
        return allocation is not None and allocation.category == WEIGHTS

    def _add(self, storage: torch.UntypedStorage, category: str) -> None:
        key = storage._cdata
        size = -(-storage.nbytes() // self.rounding_bytes) * self.rounding_bytes
        self._live[key] = Allocation(size, category, weakref.ref(storage, lambda _: self._free(key)))
        self.bytes += size
        self._count(category, size)
        if self.bytes > self.peak.peak_bytes:
            self.peak = Memory(self.bytes, dict(self.now))

    def _free(self, key: int) -> None:
        allocation = self._live.pop(key)
        self.bytes -= allocation.bytes
        self._count(allocation.category, -allocation.bytes)

    def _count(self, category: str, size: int) -> None:
        self.now[category] = self.now.get(category, 0) + size
