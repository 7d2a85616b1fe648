"""Some samples of a data set as a data set."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrun.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from bigrun.data.dataset import Dataset
    from bigrun.data.faults import BadImageError
    from bigrun.data.files.entry import Files

__all__ = ["FileSubset", "Subset", "known_faults", "subset_of"]

SPECIAL = ("order", "spacing_mm")
"""Members that count samples, and that only their own data set can make for fewer of them."""


class Subset:
    """Samples of a data set by their indices in it, in the order given.

    It has what every data set may have: `describe`, `summary`, `levels` and `groups`, and `files` where each sample is
    one. For a data set that has more see `subset_of`.
    """

    def __init__(self, dataset: Dataset, indices: npt.NDArray[np.int64]) -> None:
        """
        Args:
            indices: (n,) of samples in `dataset`.
        """
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Tensor:
        return self.dataset[int(self.indices[index])]

    def describe(self, index: int) -> str:
        """What the data set calls the sample."""
        describe = getattr(self.dataset, "describe", None)
        inner = int(self.indices[index])
        return str(describe(inner)) if describe else f"image {inner} of the data set"

    def summary(self) -> str:
        """How many there are, and what the data set says of itself."""
        summary = getattr(self.dataset, "summary", None)
        return f"{len(self):,} of {len(self.dataset):,} samples" + (f"; of {summary()}" if summary else "")

    @property
    def files(self) -> Files:
        """Those of the samples. Raises AttributeError where a sample is no file."""
        files: Files | None = getattr(self.dataset, "files", None)
        if files is None or len(files) != len(self.dataset):
            raise AttributeError("files")
        return FileSubset(files, self.indices)

    @property
    def faults(self) -> tuple[BadImageError, ...]:
        """What was bad in the whole data set when it was opened."""
        return known_faults(self.dataset)

    @property
    def levels(self) -> tuple[str, ...]:
        """Those of the data set."""
        from bigrun.data.split.groups import levels_of

        return levels_of(self.dataset)

    def groups(self, level: str) -> npt.NDArray[np.object_]:
        """(len(self),) the group of each sample, None where it is not known."""
        from bigrun.data.split.groups import known_groups

        return known_groups(self.dataset, level, type(self.dataset).__name__)[self.indices]


def known_faults(dataset: Dataset) -> tuple[BadImageError, ...]:
    """Files that were bad when a data set was opened, as it says, or its files."""
    own: tuple[BadImageError, ...] | None = getattr(dataset, "faults", None)
    if own is not None:
        return tuple(own)
    files: Files | None = getattr(dataset, "files", None)
    return () if files is None else tuple(files.faults)


class FileSubset:
    """Some files of a data set, numbered anew. See `bigrun.data.files.Files`."""

    def __init__(self, files: Files, numbers: npt.NDArray[np.int64]) -> None:
        """
        Args:
            numbers: (n,) of the files in `files`.
        """
        self.whole = files
        self.numbers = numbers
        self.root = files.root
        self.columns = files.columns
        self.confined = bool(getattr(files, "confined", False))

    @property
    def faults(self) -> tuple[BadImageError, ...]:
        """Those of the whole: a file without a number is in no subset."""
        return self.whole.faults

    @property
    def content_hash(self) -> str | None:
        """SHA-256 over contents and paths, as that of the whole; None without an index."""
        hashes = self.hashes()
        if hashes is None:
            return None
        names = (os.fsencode(self.path(number)) for number in range(len(self)))
        rows = sorted(zip((row.tobytes() for row in hashes), names, strict=True))
        return hashlib.sha256(b"".join(sha256 + name + b"\0" for sha256, name in rows)).hexdigest()

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int, /) -> Tensor:
        return self.whole[int(self.numbers[number])]

    def path(self, number: int) -> str:
        """Relative to the root."""
        return self.whole.path(int(self.numbers[number]))

    def column(self, name: str) -> npt.NDArray[np.generic]:
        """(n,) the column of these files. Raises KeyError."""
        return self.whole.column(name)[self.numbers]

    def hashes(self) -> npt.NDArray[np.uint8] | None:
        """(n, 32) uint8; None without an index."""
        hashes = self.whole.hashes()
        return None if hashes is None else hashes[self.numbers]


def subset_of(dataset: Dataset, indices: npt.NDArray[np.int64]) -> Dataset:
    """The same data set with only these samples, in this order: as it makes it itself (`subset(indices)`), or a
    `Subset` of it.

    Raises:
        UsageError: the data set has an order or spacing of its own, and no `subset`.
    """
    own: Any = getattr(dataset, "subset", None)
    if own is not None:
        result: Dataset = own(indices)
        return result
    special = [name for name in SPECIAL if hasattr(dataset, name)]
    if special:
        raise UsageError(
            f"data.split: {type(dataset).__name__} has `{special[0]}`, which counts all its samples, and no "
            "`subset(indices)` to make one of fewer: the plugin that brings it must have that to be split"
        )
    return Subset(dataset, indices)
