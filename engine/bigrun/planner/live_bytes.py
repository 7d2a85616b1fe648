"""What is allocated while torch computes, by category, and the moment at which it was most."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from bigrun.planner.memory import COPIES, HEADS, WEIGHTS, Memory
from bigrun.planner.offload import is_in_host_memory

__all__ = ["LiveBytes"]


@attrs.define(eq=False)
class Allocation:
    """One storage."""

    bytes: int
    category: str
    storage: weakref.ref[torch.UntypedStorage]
    account: Account


class Account:
    """Of one memory: what is allocated now, and when most was."""

    def __init__(self) -> None:
        self.bytes = 0
        self.now: dict[str, int] = {}
        self.peak = Memory(0, {})

    def add(self, category: str, size: int) -> None:
        self.bytes += size
        self.now[category] = self.now.get(category, 0) + size
        if self.bytes > self.peak.peak_bytes:
            self.restart()

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak = Memory(self.bytes, dict(self.now))


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
        self.share = 1.0
        """Of what is allocated next, this process's part."""
        self.part_of: Callable[[Tensor, str], int | None] = lambda tensor, category: None
        """Bytes that this process has of a tensor that is labelled; None: all of it."""
        self.without_copies: frozenset[str] = frozenset()
        """Categories of weights that are gathered in the compute type: nobody casts them."""
        self.device, self.host = Account(), Account()
        """`host` has what was allocated in `in_host_memory`."""
        self._live: dict[int, Allocation] = {}

    @contextlib.contextmanager
    def during(self, category: str) -> Iterator[None]:
        """What is allocated inside belongs to the category."""
        before, self.category = self.category, category
        try:
            yield
        finally:
            self.category = before

    @contextlib.contextmanager
    def shared(self, share: float) -> Iterator[None]:
        """Of what is allocated inside this process has only a share."""
        before, self.share = self.share, share
        try:
            yield
        finally:
            self.share = before

    def label(self, tensor: Tensor, category: str) -> None:
        """Say what a tensor that is alive is; one that is new is counted."""
        storage = tensor.untyped_storage()
        allocation = self._live.get(storage._cdata)
        part = self.part_of(tensor, category)
        if allocation is None:
            self._add(storage, category, part)
            return
        if part is not None:
            self.resize(tensor, part)
        account, size = allocation.account, allocation.bytes
        account.now[allocation.category] -= size
        account.now[category] = account.now.get(category, 0) + size
        allocation.category = category

    def resize(self, tensor: Tensor, size: int) -> None:
        """Count a tensor that is alive as so many bytes from now on."""
        allocation = self._live[tensor.untyped_storage()._cdata]
        size = self._rounded(size)
        allocation.account.add(allocation.category, size - allocation.bytes)
        allocation.bytes = size

    def is_on_device(self, tensor: Tensor) -> bool:
        """Whether it is known, and not the host's."""
        allocation = self._live.get(tensor.untyped_storage()._cdata)
        return allocation is not None and allocation.account is self.device

    @property
    def peak(self) -> Memory:
        """Of the device's memory, when it was most."""
        return self.device.peak

    def restart(self) -> None:
        """Forget the peaks so far."""
        self.device.restart()
        self.host.restart()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        is_copy = func is torch.ops.aten._to_copy.default
        category = self._category_of_copy(args[0]) if is_copy else self.category
        part = 0 if is_copy and self._is_gathered(args[0]) else None
        for found in tree_iter(out):
            if isinstance(found, Tensor) and not found.is_meta:
                storage = found.untyped_storage()
                if storage._cdata not in self._live:
                    self._add(storage, category, part)
        return out

    def _is_gathered(self, origin: Tensor) -> bool:
        allocation = self._live.get(origin.untyped_storage()._cdata)
        return allocation is not None and allocation.category in self.without_copies

    def _category_of_copy(self, origin: Tensor) -> str:
        """A weight's copy is one of another type; what comes from the host is what it is there."""
        allocation = self._live.get(origin.untyped_storage()._cdata)
        if allocation is not None and allocation.account is self.host:
            return allocation.category
        return COPIES if allocation is not None and allocation.category == WEIGHTS else self.category

    def _rounded(self, size: int) -> int:
        return -(-size // self.rounding_bytes) * self.rounding_bytes

    def _add(self, storage: torch.UntypedStorage, category: str, part: int | None = None) -> None:
        key, account = storage._cdata, self.host if is_in_host_memory() else self.device
        size = self._rounded(math.ceil(self.share * storage.nbytes()) if part is None else part)
        self._live[key] = Allocation(size, category, weakref.ref(storage, lambda _: self._free(key)), account)
        account.add(category, size)

    def _free(self, key: int) -> None:
        allocation = self._live.pop(key)
        allocation.account.add(allocation.category, -allocation.bytes)
