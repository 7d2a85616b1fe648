"""The tables of a packed form while it is written."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from pathlib import Path

import attrs

from bigrun.data.files.listed import ListedFiles
from bigrun.data.files.schema import FORMAT, create_tables, insert_columns, stored_text, write_meta
from bigrun.data.pack.marker import MARKER, TABLES
from bigrun.data.pack.shards import DTYPE_BYTES, padded
from bigrun.errors import DataIndexError
from bigrun.version import __version__

__all__ = ["Begun", "check_unused", "finish_tables", "open_tables", "reached"]


@attrs.frozen
class Begun:
    """How far a packed form has been written."""

    files: int
    shard: int
    size: int
    """Bytes of that shard."""
    bytes: int
    """Of all images."""


def check_unused(out: Path) -> None:
    """Raises DataIndexError unless `out` is no folder yet, an empty one, or one in which packing has begun."""
    if (out / MARKER).is_file():
        raise DataIndexError(f"{out}: is packed already; `bigrun data verify` reads it, another folder packs anew")
    if out.is_dir() and any(out.iterdir()) and not (out / TABLES).is_file():
        raise DataIndexError(f"{out}: holds something else; expected a folder that does not exist or is empty")
    if out.exists() and not out.is_dir():
        raise DataIndexError(f"{out}: is a file; expected a folder that does not exist or is empty")


def open_tables(place: Path, files: ListedFiles) -> sqlite3.Connection:
    """The tables of these files, new or as far as they have been filled. One process at a time.

    Raises:
        DataIndexError: they have been begun for other files.
        sqlite3.Error: another process is at work, or the disk refuses.
    """
    tables = sqlite3.connect(place, isolation_level=None, timeout=0)
    try:
        tables.execute("PRAGMA locking_mode = EXCLUSIVE")
        tables.execute("BEGIN EXCLUSIVE")
        source = identity(files)
        if not tables.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            create_tables(tables, files.table.columns)
            write_meta(tables, {"source": source})
        if dict(tables.execute("SELECT key, value FROM meta"))["source"] != source:
            raise DataIndexError(
                f"{place.parent}: packing was begun there with other files, or with another index of them; remove the "
                "folder or choose another"
            )
        tables.execute("COMMIT")
    except BaseException:
        tables.close()
        raise
    return tables


def identity(files: ListedFiles) -> str:
    """What the files are, in their order: paths, and contents as far as they are known."""
    paths = files.table.paths
    return hashlib.sha256(
        b"\0".join(
            [
                paths.data,
                paths.ends.tobytes(),
                repr((files.columns, files.channels)).encode(),
                str(files.content_hash).encode(),
            ]
        )
    ).hexdigest()


def reached(tables: sqlite3.Connection) -> Begun:
    """How far the tables go."""
    rows = tables.execute("SELECT count(number) FROM files").fetchone()[0]
    size = f"channels * height * width * {DTYPE_BYTES}"
    total = tables.execute(f"SELECT coalesce(sum({size}), 0) FROM files WHERE shard IS NOT NULL").fetchone()[0]
    last = tables.execute(
        f"SELECT shard, start + {size} FROM files WHERE shard IS NOT NULL ORDER BY row DESC LIMIT 1"
    ).fetchone()
    shard, end = last or (0, 0)
    return Begun(rows, shard, padded(end), total)


def finish_tables(tables: sqlite3.Connection, files: ListedFiles) -> None:
    """Add what is known of the whole; nothing when it is there already."""
    if "format" in dict(tables.execute("SELECT key, value FROM meta")):
        return
    tables.execute("BEGIN")
    insert_columns(tables, files.table.columns, len(files))
    refused = enumerate(files.table.faults.items(), start=len(files))
    tables.executemany(
        "INSERT INTO files (row, path, cause, message) VALUES (?, ?, ?, ?)",
        ((row, stored_text(os.fsencode(path)), error.cause, error.message) for row, (path, error) in refused),
    )
    columns = json.dumps(list(files.columns))
    write_meta(
        tables,
        {
            "format": FORMAT,
            "files": str(len(files)),
            "columns": columns,
            "bigrun": __version__,
            "channels": str(files.channels or ""),
        },
    )
    tables.execute("COMMIT")
