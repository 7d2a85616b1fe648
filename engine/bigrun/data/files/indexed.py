"""Files of which an index knows everything."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bigrun.data.files.entry import Entry
from bigrun.data.files.freshness import Opened
from bigrun.data.files.left_out import usable_again
from bigrun.data.files.listed import ListedFiles
from bigrun.data.files.load import load_hashes, load_meta, load_table
from bigrun.data.files.schema import connect_read_only
from bigrun.data.files.table import FileTable
from bigrun.errors import DataIndexError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["IndexedFiles", "open_index"]


class IndexedFiles(ListedFiles):
    """The good files of an index, in its order; the bad ones are `faults`."""

    index: Path
    content: str
    command: str
    """What has made the index."""
    was_listed: bool
    """Whether the source had to list its files all the same, to know that they are still these."""

    @property
    def origin(self) -> str:
        """Where they are known from, for people."""
        text = f"as indexed in {self.index}"
        if not self.was_listed:
            return text
        return f"{text}, and listed anew since other files have come or gone: `{self.command}` spares that"

    @property
    def content_hash(self) -> str:
        """SHA-256 over all files' contents and paths, in hex."""
        return self.content

    def hashes(self) -> npt.NDArray[np.uint8]:
        """(N, 32) uint8, read from the index. Raises DataIndexError when another has taken its place."""
        with closing(self._connect()) as index:
            return load_hashes(index)

    def usable_again(self) -> list[str]:
        """Paths of all that the index leaves out and that can be used by now; each is decoded."""
        with closing(self._connect()) as index:
            return usable_again(index, self.root, confined=self.confined, channels=self.channels)

    def _connect(self) -> sqlite3.Connection:
        index = connect_read_only(self.index)
        if load_meta(index)["content_sha256"] != self.content:
            index.close()
            raise DataIndexError(f"{self.index}: the index was made anew while this process used it; start again")
        return index


def open_index(
    root: Path,
    place: Path,
    list_files: Callable[[], Iterable[Entry]],
    fingerprint: Callable[[], str],
    *,
    confined: bool,
    channels: int | None = None,
) -> IndexedFiles:
    """The files of an index, after a look at the source and at some of the files.

    Args:
        list_files: of the source; called only where the fingerprint is another.

    Raises:
        DataIndexError: the index is damaged, of another source, for a model of other channels, or out of date.
    """
    with damage_told(place, root), closing(connect_read_only(place)) as index:
        meta = load_meta(index)
    now = fingerprint()
    listed = None if now == meta.get("fingerprint") else FileTable.of(list_files())
    with damage_told(place, root), closing(connect_read_only(place)) as index:
        opened = Opened(index, meta, root, place, confined, channels)
        opened.check(listed)
        files = IndexedFiles(root, load_table(index, meta, root), confined=confined, channels=channels)
    files.index, files.content = place, str(meta["content_sha256"])
    files.command, files.was_listed = opened.command, listed is not None
    return files


@contextmanager
def damage_told(place: Path, root: Path) -> Iterator[None]:
    """Raises DataIndexError for what reading a damaged index raises."""
    try:
        yield
    except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
        raise DataIndexError(
            f"{place}: not an index that this bigrun reads ({type(error).__name__}: {error}); "
            f"run `bigrun data index {os.fspath(root)}` again"
        ) from error
