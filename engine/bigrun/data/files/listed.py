"""Files as they lie on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bigrun.data.decode import read_image
from bigrun.data.faults import BadImageError
from bigrun.data.files.paths import locate
from bigrun.data.files.table import FileTable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

__all__ = ["ListedFiles"]


class ListedFiles:
    """The files that a source has listed, decoded when they are asked for; nothing is known of their contents."""

    def __init__(self, root: Path, table: FileTable, *, confined: bool, channels: int | None = None) -> None:
        """
        Args:
            channels: of the model, which tells the axes of a NumPy array.
            confined: a file that a symbolic link leads out of `root` to is refused, as one behind `..` always is.
        """
        self.root = root
        self.table = table
        self.confined = confined
        self.channels = channels
        self.columns = tuple(table.columns)

    @property
    def origin(self) -> str:
        """Where they are known from, for people; empty for the folder itself."""
        return ""

    @property
    def faults(self) -> tuple[BadImageError, ...]:
        """Files that the source knows to be bad."""
        return tuple(self.table.faults.values())

    @property
    def content_hash(self) -> str | None:
        """None: the contents were not read."""
        return None

    def __len__(self) -> int:
        return len(self.table.paths)

    def __getitem__(self, number: int, /) -> Tensor:
        """Decode a file: (C, H, W) uint8, uint16 or float32. Raises BadImageError."""
        return read_image(locate(self.root, self.path(number), confined=self.confined), self.channels)

    def path(self, number: int) -> str:
        """Relative to the root."""
        return self.table.paths[number]

    def column(self, name: str) -> npt.NDArray[np.generic]:
        """(N,) object (str or None), int64, or float64 with NaN for None. Raises KeyError."""
        return self.table.columns[name].array()

    def hashes(self) -> npt.NDArray[np.uint8] | None:
        """None: the contents were not read."""
        return None
