"""Host memory that is taken in the device's stead, and how a rehearsal, which has one memory, is told. Torch-free."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

__all__ = ["in_host_memory", "is_in_host_memory"]

_in_host_memory: ContextVar[bool] = ContextVar("in_host_memory", default=False)


@contextlib.contextmanager
def in_host_memory() -> Iterator[None]:
    """What is allocated inside is the host's: `bigrun plan` counts it there, and not on the device. A run is not
    changed by it."""
    token = _in_host_memory.set(True)
    try:
        yield
    finally:
        _in_host_memory.reset(token)


def is_in_host_memory() -> bool:
    """Whether the caller is inside of `in_host_memory`."""
    return _in_host_memory.get()
