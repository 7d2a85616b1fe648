"""The tables of an index or of a packed form, into memory."""

from __future__ import annotations

import json
import os
import sqlite3
from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bigrun.data.faults import BadImageError
from bigrun.data.files.columns import Column, Numbers, Texts
from bigrun.data.files.schema import FORMAT, quoted
from bigrun.data.files.strings import Strings
from bigrun.data.files.table import FileTable
from bigrun.errors import DataIndexError

__all__ = ["lists_the_same", "load_hashes", "load_meta", "load_numbers", "load_table", "require_axes"]

CHUNK = 10_000


def load_meta(connection: sqlite3.Connection) -> dict[str, str | None]:
    """Facts about the whole.

    Raises:
        sqlite3.Error: it is no such file.
        ValueError: another bigrun has made it.
    """
    meta: dict[str, str | None] = dict(connection.execute("SELECT key, value FROM meta"))
    if meta.get("format") != FORMAT:
        raise ValueError(f"its format is {meta.get('format')!r}, expected {FORMAT!r}")
    return meta


def load_table(connection: sqlite3.Connection, meta: Mapping[str, str | None], root: Path) -> FileTable:
    """Paths, columns and faults. Raises sqlite3.Error, ValueError, KeyError, TypeError for a damaged file."""
    paths = load_paths(connection, "number IS NOT NULL")
    if str(len(paths)) != meta["files"]:
        raise ValueError(f"it has {len(paths)} files, and says that it has {meta['files']}")
    names = json.loads(meta["columns"] or "[]")
    rows = load_numbers(connection, "row") if names else np.empty(0, dtype=np.int64)
    columns = {name: load_column(connection, name).take(rows) for name in names}
    return FileTable(paths, columns, faults(connection, root))


def lists_the_same(connection: sqlite3.Connection, names: Sequence[str], listed: FileTable) -> bool:
    """Whether an index has the files, in their order, and the columns that its source lists now.

    Args:
        names: of the columns that the index has.
    """
    paths, refused = load_paths(connection, "decoded IS NOT NULL"), load_paths(connection, "decoded IS NULL")
    if list(names) != list(listed.columns) or list(refused) != list(listed.faults):
        return False
    if paths.data != listed.paths.data or not np.array_equal(paths.ends, listed.paths.ends):
        return False
    return all(load_column(connection, name).equals(column) for name, column in listed.columns.items())


def require_axes(
    connection: sqlite3.Connection, meta: Mapping[str, str | None], channels: int | None, place: Path, advice: str
) -> None:
    """The axes of a NumPy array depend on the model's channels; images do not.

    Raises:
        DataIndexError: there are such, and they were read for a model of other channels; it ends with `advice`.
    """
    then, now = meta.get("channels"), str(channels or "")
    if then != now and connection.execute("SELECT 1 FROM files WHERE mode = 'NPY' LIMIT 1").fetchone():
        raise DataIndexError(
            f"{place}: has NumPy arrays, and was made for model.in_channels = {then}, which is {now} now; {advice}"
        )


def load_paths(connection: sqlite3.Connection, condition: str) -> Strings:
    """Of the files for which an SQL condition holds, in their order."""
    data, lengths = bytearray(), array("q")
    cursor = connection.execute(f"SELECT CAST(path AS BLOB) FROM files WHERE {condition} ORDER BY row")
    while rows := cursor.fetchmany(CHUNK):
        names = list(chain.from_iterable(rows))
        data += b"".join(names)
        lengths.extend(map(len, names))
    return Strings(bytes(data), np.cumsum(np.frombuffer(lengths, dtype=np.int64)))


def faults(connection: sqlite3.Connection, root: Path) -> dict[str, BadImageError]:
    """Files without a number, by path."""
    query = "SELECT CAST(path AS BLOB), cause, message FROM files WHERE number IS NULL ORDER BY row"
    found = ((os.fsdecode(path), cause, message) for path, cause, message in connection.execute(query))
    return {path: BadImageError(str(root / path), cause, message) for path, cause, message in found}


def load_column(connection: sqlite3.Connection, name: str) -> Column:
    """A column of the source, one value for each of its rows."""
    kinds = {row[1]: row[2] for row in connection.execute("PRAGMA table_info(columns)")}
    if kinds[name] == "INTEGER":
        return Numbers(array_of(connection, f"SELECT {quoted(name)} FROM columns ORDER BY row", np.int64))
    if kinds[name] == "REAL":
        values = connection.execute(f"SELECT {quoted(name)} FROM columns ORDER BY row")
        known = (np.nan if value is None else value for (value,) in values)
        return Numbers(np.fromiter(known, dtype=np.float64))
    codes: dict[bytes | None, int] = {None: -1}
    values = connection.execute(f"SELECT CAST({quoted(name)} AS BLOB) FROM columns ORDER BY row")
    numbers = np.fromiter((codes.setdefault(value, len(codes) - 1) for (value,) in values), dtype=np.int32)
    return Texts(numbers, tuple(os.fsdecode(value) for value in codes if value is not None))


def load_numbers(
    connection: sqlite3.Connection, value: str, dtype: type[np.signedinteger[Any]] = np.int64
) -> npt.NDArray[Any]:
    """(N,) an expression in the columns of the table `files`, -1 for NULL."""
    query = f"SELECT coalesce({value}, -1) FROM files WHERE number IS NOT NULL ORDER BY row"
    return array_of(connection, query, dtype)


def load_hashes(connection: sqlite3.Connection) -> npt.NDArray[np.uint8]:
    """(N, 32) SHA-256 of each file's bytes; zeros where it could not be read."""
    found = connection.execute("SELECT sha256 FROM files WHERE number IS NOT NULL ORDER BY row")
    joined = b"".join(sha256 or bytes(32) for (sha256,) in found)
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, 32)


def array_of(connection: sqlite3.Connection, query: str, dtype: type[Any]) -> npt.NDArray[Any]:
    """The values of the only column of a query, none of them NULL."""
    return np.fromiter(chain.from_iterable(connection.execute(query)), dtype=dtype)
