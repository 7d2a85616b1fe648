"""The one way from a data set's folder to its files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from bigrun.data.files.entry import Entry, Files
from bigrun.data.files.indexed import open_index
from bigrun.data.files.listed import ListedFiles
from bigrun.data.files.recorded import Source, sources_heard
from bigrun.data.files.schema import INDEX
from bigrun.data.files.table import FileTable
from bigrun.data.pack.files import is_packed, open_packed
from bigrun.data.search import names_hash
from bigrun.errors import DataIndexError
from bigrun.refusals import reading

__all__ = ["open_files", "open_listed"]


def open_files(
    root: Path,
    list_files: Callable[[], Iterable[Entry]],
    *,
    fingerprint: Callable[[], str] | None = None,
    index: Path | None = None,
    follow_links: bool = False,
    channels: int | None = None,
) -> Files:
    """The files of a data set: from its packed form, from its index, or as the source lists them.

    All three give the same files in the same order; but an index leaves out the files that it knows to be bad.

    Args:
        root: the data set's folder, `data.path`.
        list_files: lists the source's files in their order; called where there is neither, and where the fingerprint
            is not that of the index.
        fingerprint: changes when what `list_files` would say changes, as the SHA-256 of a source's table does. An
            index is believed where it is what it was; else the files are listed and compared. The names of all files
            below `root` if not given: a source whose files are in a table has to hash that.
        index: where the index lies if not in `root`: `data.index`.
        follow_links: files outside of `root` are taken if a symbolic link in it leads to them.
        channels: of the model, `model.in_channels`: tells the axes of a NumPy array.

    Raises:
        DataIndexError: the index is damaged or out of date; the packed form is damaged.
        DataError: a column has text and numbers.
        UsageError: the folder may not be entered.
    """
    heard = sources_heard.get()
    fingerprint = fingerprint or (lambda: names_hash(os.fspath(root), ignored=INDEX))
    with reading(root):
        is_pack = is_packed(root)
    if is_pack:
        if heard is not None:
            raise DataIndexError(f"{root}: is packed already, and knows of its files what an index would")
        if index is not None:
            raise DataIndexError(f"data.index: {index}: has no effect, for {root} is a packed data set; leave it out")
        return open_packed(root, channels)
    if heard is None:
        place = index or root / INDEX
        if place.is_file():
            return open_index(root, place, list_files, fingerprint, confined=not follow_links, channels=channels)
        if index is not None:
            raise DataIndexError(
                f"data.index: {index}: no such file; `bigrun data index {root} --out {index}` makes it"
            )
    now = fingerprint() if heard is not None else None  # first: what comes while it lists makes it stale
    files = open_listed(root, list_files(), follow_links=follow_links, channels=channels)
    if heard is not None:
        heard.append(Source(files, root, now, index, follow_links, channels))
    return files


def open_listed(
    root: Path, entries: Iterable[Entry], *, follow_links: bool = False, channels: int | None = None
) -> ListedFiles:
    """Files as their source lists them. Raises DataError when a column has text and numbers."""
    return ListedFiles(root, FileTable.of(entries), confined=not follow_links, channels=channels)
