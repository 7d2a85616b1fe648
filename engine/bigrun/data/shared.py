"""Memory that two processes share: a file without a name (memfd_create(2)).

Not in /dev/shm, which a container gives 64 MB by default and whose end kills whoever writes beyond it (SIGBUS): it
counts as memory of the process, and only that can run out.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

__all__ = ["map_buffer", "new_buffer"]


def new_buffer(size: int) -> tuple[int, Tensor]:
    """A file descriptor, to be sent and closed, and its memory, (size,) uint8.

    Raises:
        OSError, RuntimeError: there are too many open files, or no memory.
    """
    descriptor = os.memfd_create("bigrun-images", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
        return descriptor, map_buffer(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise


def map_buffer(descriptor: int, size: int) -> Tensor:
    """The memory behind a descriptor, which may be closed then, (size,) uint8; freed with the last tensor on it.

    By its name, for `mmap.mmap` keeps a descriptor of its own as long as it lives, one for each micro-batch.

    Raises:
        RuntimeError: there are too many open files, or no memory.
    """
    return torch.from_file(f"/proc/self/fd/{descriptor}", shared=True, size=size, dtype=torch.uint8)
