"""The images that a check decodes: the files of a data set, or its samples if it is not made of files."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrun.data.split.groups import file_groups, file_levels

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from bigrun.data.dataset import Dataset
    from bigrun.data.files.entry import Files

__all__ = ["Images"]

COLUMN = "dataset"
"""The column that says of which data set a file is, where several lie in one folder."""


class Images:
    """Images by number. A CT sample is several files, each of which is decoded once."""

    def __init__(self, dataset: Dataset, channels: int) -> None:
        """
        Args:
            channels: of the model; an image has that many or 1.
        """
        self.dataset: Dataset | None = dataset
        self.channels = channels
        self.files: Files | None = getattr(dataset, "files", None)
        self.is_sample = self.files is None or len(self.files) == len(dataset)
        """Whether each image is a sample."""

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, number: int, /) -> Tensor:
        """(C, H, W). Raises DataError."""
        image: Tensor = self.reader[number]
        return image

    @property
    def reader(self) -> Any:
        return self.dataset if self.files is None else self.files

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the files alone, if there are any."""
        return self.__dict__ | ({"dataset": None} if self.files is not None else {})

    def describe(self, number: int) -> str:
        """The file's path below the root, or what the data set calls the sample."""
        if self.files is not None:
            return self.files.path(number)
        describe = getattr(self.dataset, "describe", None)
        return str(describe(number)) if describe else f"sample {number}"

    def sets(self) -> tuple[list[str], npt.NDArray[np.int64]]:
        """The names of the data sets, `""` for images without one, and (len(self),) which one each image is of."""
        if self.files is None or COLUMN not in self.files.columns:
            return [""], np.zeros(len(self), dtype=np.int64)
        names = ["" if name is None else str(name) for name in self.files.column(COLUMN).tolist()]
        known = sorted(set(names))
        places = {name: place for place, name in enumerate(known)}
        return known, np.array([places[name] for name in names], dtype=np.int64)

    def groups(self, level: str, samples: npt.NDArray[np.object_]) -> npt.NDArray[np.object_] | None:
        """(len(self),) the group of each image at a level; None where it cannot be told.

        Args:
            samples: (samples,) the group of each sample.
        """
        if self.is_sample:
            return samples
        if self.files is not None and level in file_levels(self.files):
            return file_groups(self.files, level)
        return None

    def left_out_wrongly(self) -> list[str]:
        """Paths of files that an index leaves out as bad, and that it would not leave out now."""
        from bigrun.data.files.indexed import IndexedFiles

        return self.files.usable_again() if isinstance(self.files, IndexedFiles) else []

    def sample(self, count: int) -> npt.NDArray[np.int64]:
        """(n,) numbers of `count` images, ascending: the same images in whatever order they are listed."""
        if count >= len(self):
            return np.arange(len(self))
        names = (self.describe(number).encode("utf-8", "surrogatepass") for number in range(len(self)))
        places = np.array([int.from_bytes(hashlib.sha256(name).digest()[:8], "big") for name in names], dtype=np.uint64)
        return np.sort(np.argsort(places, kind="stable")[:count])
