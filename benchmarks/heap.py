"""What a process has on the heap at most, whoever gives it back: on a CPU torch's tensors, and Python's own."""

from __future__ import annotations

import ctypes
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["HeapPeak", "heap_bytes"]

M_ARENA_MAX = -8  # <malloc.h> of glibc


class Mallinfo(ctypes.Structure):
    """<malloc.h>, `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


LIBC = ctypes.CDLL(None)


def heap_bytes() -> int:
    """In use, of the main heap and of what is mapped by itself (glibc)."""
    LIBC.mallinfo2.restype = Mallinfo
    info = LIBC.mallinfo2()
    return int(info.uordblks + info.hblkhd)


class HeapPeak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most that is in use behind any operator of torch in this thread, forward and backward, beyond what there was
    when this was made. torch's profiler does not see what gloo's threads give back; what a kernel takes and gives back
    within is not in it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        LIBC.mallopt(M_ARENA_MAX, 1)  # one heap for all threads that begin from now on
        self.before = heap_bytes()
        self.peak_bytes = 0

    def restart(self) -> None:
        """Forget the peak so far."""
        self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.peak_bytes = max(self.peak_bytes, heap_bytes() - self.before)
        return out
