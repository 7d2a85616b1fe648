"""A group of tensors that was saved, in one file or in several."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from bigrun.checkpoint.group import TensorGroup
from bigrun.checkpoint.headers import check_headers, open_tensors
from bigrun.checkpoint.pieces import read_index
from bigrun.errors import CheckpointError
from bigrun.shards import is_sharded, own_rows, place

__all__ = ["SavedTensors"]


class SavedTensors(TensorGroup):
    """The files are mapped copy-on-write: memory is used as tensors are read, changing them leaves the files alone, and
    tensors stay as they are when this object or the files are gone.

    A tensor in one file is that mapping each time it is asked for; one in pieces is put together each time, so that
    whoever needs one tensor at a time, or some rows, needs no more memory.
    """

    def __init__(self, checkpoint: Path, stem: str) -> None:
        """Raises: CheckpointError: a file cannot be read, or does not fit the others."""
        index = read_index(checkpoint, stem)
        self._where = f"{checkpoint / stem}"
        self._files = {name: open_tensors(checkpoint / name, "pt") for name in index.files}
        self._first = self._files[index.files[0]]
        self._keys = {name: name for name in self._first.keys()}  # noqa: SIM118 - it is no mapping
        self._shapes = index.shapes
        self._starts = check_headers(checkpoint, stem, index, self._files)

    @property
    def is_in_pieces(self) -> bool:
        """Whether any tensor is: one that is put together, in new memory, whenever it is asked for."""
        return any(key in self._starts for key in self._keys.values())

    def part(self, prefix: str) -> SavedTensors:
        """Those whose names begin so, by the rest of their names; nothing is read."""
        part = copy.copy(self)
        part._keys = {n.removeprefix(prefix): key for n, key in self._keys.items() if n.startswith(prefix)}
        return part

    def __getitem__(self, name: str) -> Tensor:
        key = self._keys[name]
        if key in self._starts:
            return self.rows(name, slice(None))
        with self._reading(key):
            return self._first.get_tensor(key)  # type: ignore[no-any-return]

    def __contains__(self, name: object) -> bool:
        return name in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a whole tensor, which is not read."""
        key = self._keys[name]
        return self._shapes[key] if key in self._shapes else tuple(self._first.get_slice(key).get_shape())

    def form(self, name: str) -> str:
        """Type and shape of a tensor, which is not read: `F32 [4, 3]`."""
        return f"{self._first.get_slice(self._keys[name]).get_dtype()} {list(self.shape(name))}"

    def rows(self, name: str, rows: slice) -> Tensor:
        """`self[name][rows]`, for which no other rows are read. A copy only where they are from several files."""
        key = self._keys[name]
        start, stop, step = rows.indices(self.shape(name)[0])
        with self._reading(key):
            found = []
            for file, (first, end) in zip(self._files.values(), pairwise(self._starts_of(key)), strict=False):
                if max(start, first) < min(stop, end):
                    found.append(file.get_slice(key)[max(start, first) - first : min(stop, end) - first])
            if not found:
                found = [self._first.get_slice(key)[0:0]]
        whole = found[0] if len(found) == 1 else torch.cat(found)
        return whole if step == 1 else whole[::step]

    def _starts_of(self, key: str) -> list[int]:
        return self._starts.get(key) or [0, self._first.get_slice(key).get_shape()[0]]

    def like(self, name: str, target: Tensor) -> Tensor:
        """See `TensorGroup.like`; only the rows that this process has are read."""
        return place(self.rows(name, own_rows(target)), target) if is_sharded(target) else self[name]

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        """What a type is that torch does not have, say."""
        try:
            yield
        except SafetensorError as error:
            raise CheckpointError(f"{self._where}: {key} cannot be read: {error}") from error
