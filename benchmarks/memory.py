"""Takes the allocator out of a comparison."""

from __future__ import annotations

import contextlib
import ctypes

__all__ = ["keep_freed_memory"]

# <malloc.h> of glibc.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Let glibc serve all threads from one heap and never give memory back to the kernel.

    By default each thread has a heap of its own, and large tensors are unmapped and faulted in again in every step:
    3,400 to 9,700 page faults a step of 240 ms were seen, by the accident of each heap's layout, which is 5 to 18 ms
    of system time for the same work. With this there are fewer than 100. Elsewhere than on glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
            mallopt(option, value)
