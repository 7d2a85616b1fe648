"""The files in which decoded images lie: flat arrays of bytes in numpy's own format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from types import TracebackType

    import numpy.typing as npt
    from torch import Tensor

__all__ = [
    "ALIGNMENT",
    "DTYPE_BYTES",
    "HEADER",
    "SHARD_BYTES",
    "ShardWriter",
    "bytes_of",
    "map_shard",
    "padded",
    "shard_name",
]

SHARD_BYTES = 4 << 30
"""No shard is longer, unless a single image is."""
ALIGNMENT = 64
"""Bytes; a cache line, and a multiple of every dtype's size."""
HEADER = 128
"""Bytes of the header of an .npy file; numpy's own is as long."""

DTYPE_BYTES = "CASE dtype WHEN 'uint8' THEN 1 WHEN 'uint16' THEN 2 WHEN 'float32' THEN 4 END"
"""Bytes of a value, in SQL."""


def shard_name(shard: int) -> str:
    """`shard-00003.npy`."""
    return f"shard-{shard:05d}.npy"


def padded(size: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def bytes_of(pixels: npt.NDArray[np.generic]) -> memoryview:
    """The memory of an array."""
    return np.ascontiguousarray(pixels).reshape(-1).view(np.uint8).data


def header(size: int) -> bytes:
    """Of an .npy file (version 1.0) of `size` uint8 values."""
    described = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},), }}"
    length = HEADER - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + described.ljust(length - 1).encode("ascii") + b"\n"


class ShardWriter:
    """Appends images to shards, from a place on that a former writer has reached."""

    def __init__(self, folder: Path, shard: int = 0, size: int = 0, limit: int = SHARD_BYTES) -> None:
        """Go on behind `size` bytes of a shard; what lies behind them, and in later shards, is removed.

        Raises:
            OSError: the shard is shorter than that, or cannot be written.
        """
        self.folder, self.limit, self.shard, self.size = folder, limit, shard, size
        for path in sorted(folder.glob("shard-*.npy")):
            if path.name > shard_name(shard):
                path.unlink()
        self.file = (folder / shard_name(shard)).open("r+b" if size else "wb")
        if size and os.fstat(self.file.fileno()).st_size < HEADER + size:
            self.file.close()
            raise OSError(f"{shard_name(shard)} is shorter than it was")
        self.file.truncate(HEADER + size)
        self.file.seek(HEADER + size)

    def append(self, pixels: npt.NDArray[np.generic]) -> tuple[int, int]:
        """Write an image; returns its shard and where in the shard's array it starts."""
        if self.size and self.size + pixels.nbytes > self.limit:
            self.finish()
            self.shard, self.size = self.shard + 1, 0
            self.file = (self.folder / shard_name(self.shard)).open("wb")
            self.file.seek(HEADER)
        start = self.size
        self.file.write(bytes_of(pixels))
        self.file.write(bytes(padded(pixels.nbytes) - pixels.nbytes))
        self.size += padded(pixels.nbytes)
        return self.shard, start

    def sync(self) -> None:
        """Force everything to the disk, and out of the memory: reading it back then reads the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        os.posix_fadvise(self.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def finish(self) -> None:
        """Complete the shard: it is a valid .npy file from here on."""
        self.file.seek(0)
        self.file.write(header(self.size))
        self.sync()
        self.file.close()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.file.close()


class Pointer:
    """A numpy view of memory that claims it may be written to.

    torch warns of read-only arrays, each time it sees one. The memory itself stays read-only: whoever writes to an
    image of a packed data set ends the process, instead of changing what every later epoch sees.
    """

    def __init__(self, mapped: npt.NDArray[np.uint8]) -> None:
        self.mapped = mapped  # keeps the mapping alive
        self.__array_interface__ = {**mapped.__array_interface__, "data": (mapped.ctypes.data, False)}


def map_shard(path: Path) -> Tensor:
    """(bytes,) uint8, a view of the file's pages: nothing is read before it is used. Raises OSError, ValueError."""
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if mapped.dtype != np.uint8 or mapped.ndim != 1:
        raise ValueError(f"{path}: expected a flat array of bytes, got {mapped.dtype} {mapped.shape}")
    if not mapped.size:
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_numpy(np.asarray(Pointer(mapped)))
