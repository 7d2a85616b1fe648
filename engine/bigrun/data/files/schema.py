"""The tables of an index and of a packed form: SQLite, which Python brings along."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bigrun.data.files.columns import Column, Texts
from bigrun.errors import DataIndexError

__all__ = [
    "FACTS",
    "FORMAT",
    "INDEX",
    "NAMES",
    "connect_new",
    "connect_read_only",
    "create_tables",
    "insert_columns",
    "quoted",
    "stored_text",
    "write_meta",
]

FORMAT = "1"
INDEX = "bigrun-index.sqlite"

FACTS = (
    "bytes INTEGER, mtime_ns INTEGER, width INTEGER, height INTEGER, channels INTEGER, dtype TEXT, mode TEXT, "
    "sha256 BLOB, decoded INTEGER, cause TEXT, message TEXT"
)
NAMES = ", ".join(column.split()[0] for column in FACTS.split(", "))
FILES = (
    f"row INTEGER PRIMARY KEY, number INTEGER, path NOT NULL, {FACTS}, shard INTEGER, start INTEGER, pixels_sha256 BLOB"
)
CHUNK = 10_000


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open a file that nobody changes (it is only ever replaced): no lock, no journal, so a read-only disk will do."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def connect_new(path: Path) -> sqlite3.Connection:
    """Open a file that is worthless until it is complete: no journal, nothing is synced."""
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def create_tables(connection: sqlite3.Connection, columns: Mapping[str, Column]) -> None:
    """Empty tables. Raises DataIndexError for names of columns that SQLite cannot tell apart."""
    names = [name.casefold() for name in columns]
    for name in columns:
        if name.casefold() == "row" or names.count(name.casefold()) > 1 or "\0" in name:
            raise DataIndexError(
                f"column {name!r}: an index keeps no column of this name (`row`, or two that differ in upper and "
                "lower case only); rename it"
            )
    connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)")
    connection.execute(f"CREATE TABLE files ({FILES})")
    declared = "".join(f", {quoted(name)} {sql_type(column)}" for name, column in columns.items())
    connection.execute(f"CREATE TABLE columns (row INTEGER PRIMARY KEY{declared})")


def insert_columns(connection: sqlite3.Connection, columns: Mapping[str, Column], rows: int) -> None:
    """The values of the source's columns for the first `rows` rows."""
    if not columns:
        return
    places = ", ".join("?" * (len(columns) + 1))
    for start in range(0, rows, CHUNK):
        numbers = range(start, min(start + CHUNK, rows))
        values = [values_of(column, numbers) for column in columns.values()]
        connection.executemany(f"INSERT INTO columns VALUES ({places})", zip(numbers, *values, strict=True))


def values_of(column: Column, numbers: range) -> list[Any]:
    part = slice(numbers.start, numbers.stop)
    if isinstance(column, Texts):
        values = [stored_text(os.fsencode(value)) for value in column.values]
        return [None if code < 0 else values[code] for code in column.codes[part].tolist()]
    found: list[Any] = column.values[part].tolist()  # SQLite stores NaN as NULL
    return found


def write_meta(connection: sqlite3.Connection, meta: Mapping[str, str | None]) -> None:
    """Facts about the whole."""
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta.items())


def stored_text(text: bytes) -> str | bytes:
    """A path or a value as the tables have it: text, and bytes where it is no UTF-8."""
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def sql_type(column: Column) -> str:
    if isinstance(column, Texts):
        return "TEXT"
    return "INTEGER" if column.values.dtype.kind == "i" else "REAL"
