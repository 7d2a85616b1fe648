"""What a source says of its files, and what everybody else sees of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from bigrun.data.faults import BadImageError

__all__ = ["Entry", "Files", "Value"]

Value: TypeAlias = str | int | float | None


@attrs.frozen
class Entry:
    """What a source says of one file."""

    path: str
    """Relative to the root, `/` between its parts."""
    columns: Mapping[str, Value] = MappingProxyType({})
    """Facts that the source knows: patient, study, series, slice_index, ..."""
    fault: BadImageError | None = None
    """Why the source knows already that the file is no sample: it gets no number and is counted in `Files.faults`."""


class Files(Protocol):
    """The files of a data set, numbered 0 to N - 1 in the order of their source.

    Pickled once to each worker: a million paths of 41 characters take 48 MB there, and are not a million objects.
    """

    root: Path
    columns: tuple[str, ...]
    """Names for `column`."""

    @property
    def faults(self) -> tuple[BadImageError, ...]:
        """Files that were known to be bad when the data set was opened, with their causes. They have no number."""
        ...

    @property
    def content_hash(self) -> str | None:
        """SHA-256 over all files' contents and paths, in hex: the same wherever they lie; None without an index."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Tensor:
        """Decode a file: (C, H, W) uint8, uint16 or float32. Raises BadImageError."""
        ...

    def path(self, number: int) -> str:
        """Relative to the root, `/` between its parts."""
        ...

    def column(self, name: str) -> npt.NDArray[np.generic]:
        """(N,) object (str or None), int64, or float64 with NaN for None. Raises KeyError for an unknown name."""
        ...

    def hashes(self) -> npt.NDArray[np.uint8] | None:
        """(N, 32) uint8, SHA-256 of each file's bytes; None without an index."""
        ...
