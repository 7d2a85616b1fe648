"""The files of a packed data set."""

from __future__ import annotations

import os
import sqlite3
from collections import OrderedDict
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt
import torch

from bigrun.data.faults import BadImageError
from bigrun.data.files.load import load_hashes, load_meta, load_numbers, load_table, require_axes
from bigrun.data.files.schema import connect_read_only
from bigrun.data.files.table import FileTable
from bigrun.data.pack.marker import TABLES, is_packed, read_marker
from bigrun.data.pack.shards import map_shard, shard_name
from bigrun.errors import DataIndexError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Layout", "PackedFiles", "is_packed", "open_packed"]

OPEN_SHARDS = 256
"""Each takes a file descriptor, of which a process has 1024 by default."""
DTYPES = {"uint8": torch.uint8, "uint16": torch.uint16, "float32": torch.float32}


@attrs.frozen(eq=False)
class Layout:
    """Where N images lie, and their shapes."""

    shard: npt.NDArray[np.int32]  # (N,), -1 for an image that could not be decoded
    start: npt.NDArray[np.int64]  # (N,) bytes
    shape: npt.NDArray[np.int32]  # (N, 3) C, H, W
    dtype: npt.NDArray[np.int8]  # (N,) place in DTYPES


class PackedFiles:
    """Decoded images, as views of memory-mapped shards: nothing is copied, nothing is decoded."""

    def __init__(
        self, root: Path, table: FileTable, layout: Layout, bad: dict[int, BadImageError], content: str
    ) -> None:
        """
        Args:
            bad: by number, what decoding has said of files that have a number all the same; a run counts them at its
                start.
        """
        self.root = root
        self.table = table
        self.layout = layout
        self.bad = bad
        self.columns = tuple(table.columns)
        self.content = content
        self._shards: OrderedDict[int, Tensor] = OrderedDict()

    @property
    def origin(self) -> str:
        """Where they are known from, for people."""
        return "packed"

    @property
    def faults(self) -> tuple[BadImageError, ...]:
        """Files that were known to be bad before they were packed, and have no number."""
        return tuple(self.table.faults.values())

    @property
    def content_hash(self) -> str:
        """SHA-256 over the contents and paths of the files that were packed, in hex: that of their index."""
        return self.content

    def __len__(self) -> int:
        return len(self.table.paths)

    def __getitem__(self, number: int, /) -> Tensor:
        """(C, H, W) uint8, uint16 or float32, a view of memory that cannot be written to.

        Raises:
            BadImageError: the one that decoding the file has raised.
        """
        layout = self.layout
        shard = int(layout.shard[number])
        if shard < 0:
            raise self.bad[number % len(self)]
        channels, height, width = layout.shape[number].tolist()
        dtype = tuple(DTYPES.values())[layout.dtype[number]]
        start, size = int(layout.start[number]), channels * height * width * dtype.itemsize
        return self.shard(shard)[start : start + size].view(dtype).view(channels, height, width)

    def shard(self, shard: int) -> Tensor:
        """(bytes,) uint8; mapped when it is first used, in each process anew."""
        if shard not in self._shards:
            if len(self._shards) >= OPEN_SHARDS:
                self._shards.popitem(last=False)
            self._shards[shard] = map_shard(self.root / shard_name(shard))
        self._shards.move_to_end(shard)
        return self._shards[shard]

    def path(self, number: int) -> str:
        """Of the file that was packed, relative to the root that it had."""
        return self.table.paths[number]

    def column(self, name: str) -> npt.NDArray[np.generic]:
        """(N,) object (str or None), int64, or float64 with NaN for None. Raises KeyError."""
        return self.table.columns[name].array()

    def hashes(self) -> npt.NDArray[np.uint8]:
        """(N, 32) uint8, SHA-256 of the bytes of each file that was packed."""
        with closing(connect_read_only(self.root / TABLES)) as tables:
            return load_hashes(tables)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": OrderedDict()}


def open_packed(root: Path, channels: int | None = None) -> PackedFiles:
    """The files of a packed data set.

    Args:
        channels: of the model.

    Raises:
        DataIndexError: it is damaged, or holds NumPy arrays that were decoded for a model of other channels.
    """
    marker = read_marker(root)
    try:
        with closing(connect_read_only(root / TABLES)) as tables:
            meta = load_meta(tables)
            require_axes(tables, meta, channels, root, "pack it with this preset, into another folder")
            table = load_table(tables, meta, root)
            layout, bad = load_layout(tables), load_bad(tables, root)
    except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
        raise DataIndexError(
            f"{root / TABLES}: damaged ({type(error).__name__}: {error}); pack the data set again, into another folder"
        ) from error
    return PackedFiles(root, table, layout, bad, marker["content_sha256"])


def load_layout(tables: sqlite3.Connection) -> Layout:
    """Where the images lie."""
    cases = " ".join(f"WHEN '{name}' THEN {place}" for place, name in enumerate(DTYPES))
    shapes = [load_numbers(tables, name, np.int32) for name in ("channels", "height", "width")]
    return Layout(
        shard=load_numbers(tables, "shard", np.int32),
        start=load_numbers(tables, "start"),
        shape=np.stack(shapes, axis=1),
        dtype=load_numbers(tables, f"CASE dtype {cases} END", np.int8),
    )


def load_bad(tables: sqlite3.Connection, root: Path) -> dict[int, BadImageError]:
    """Files that have a number and no pixels."""
    query = (
        "SELECT number, CAST(path AS BLOB), cause, message FROM files WHERE number IS NOT NULL AND cause IS NOT NULL"
    )
    return {
        number: BadImageError(str(root / os.fsdecode(path)), cause, message)
        for number, path, cause, message in tables.execute(query)
    }
