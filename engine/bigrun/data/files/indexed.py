"""Files of which an index knows everything."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bigrun.data.files.freshness import check_fresh
from bigrun.data.files.listed import ListedFiles
from bigrun.data.files.load import load_hashes, load_meta, load_table
from bigrun.data.files.schema import connect_read_only
from bigrun.errors import DataIndexError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["IndexedFiles", "open_index"]


class IndexedFiles(ListedFiles):
    """The good files of an index, in its order; the bad ones are `faults`."""

    index: Path
    content: str

    @property
    def origin(self) -> str:
        """Where they are known from, for people."""
        return f"as indexed in {self.index}"

    @property
    def content_hash(self) -> str:
        """SHA-256 over all files' contents and paths, in hex."""
        return self.content

    def hashes(self) -> npt.NDArray[np.uint8]:
        """(N, 32) uint8, read from the index. Raises DataIndexError when another has taken its place."""
        with closing(connect_read_only(self.index)) as index:
            if load_meta(index)["content_sha256"] != self.content:
                raise DataIndexError(f"{self.index}: the index was made anew while this process used it; start again")
            return load_hashes(index)


def open_index(
    root: Path, place: Path, fingerprint: Callable[[], str] | None, *, confined: bool, channels: int | None = None
) -> IndexedFiles:
    """The files of an index, after a look at the source and at some of the files.

    Raises:
        DataIndexError: the index is damaged, of another source, or out of date.
    """
    try:
        with closing(connect_read_only(place)) as index:
            meta = load_meta(index)
            check_fresh(index, meta, root, place, fingerprint)
            files = IndexedFiles(root, load_table(index, meta, root), confined=confined, channels=channels)
    except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
        raise DataIndexError(
            f"{place}: not an index that this bigrun reads ({type(error).__name__}: {error}); "
            f"run `bigrun data index {os.fspath(root)}` again"
        ) from error
    files.index, files.content = place, str(meta["content_sha256"])
    return files
