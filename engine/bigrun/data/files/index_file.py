"""The file of an index: written whole and renamed into its place."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from bigrun.checkpoint.disk import sync_directory
from bigrun.data.files.facts import Facts, facts_of_refused
from bigrun.data.files.recorded import Source
from bigrun.data.files.report import Changes, IndexReport
from bigrun.data.files.schema import (
    FORMAT,
    NAMES,
    connect_new,
    create_tables,
    insert_columns,
    stored_text,
    write_meta,
)
from bigrun.data.files.table import FileTable
from bigrun.version import __version__

__all__ = ["content_hash", "new_place", "now_utc", "write_index"]


def write_index(seen: sqlite3.Connection, source: Source, table: FileTable, out: Path, command: str) -> IndexReport:
    """Write the index of the files of `table`, whose facts are in `seen`, and put it in the place of the one before.

    Raises:
        OSError, sqlite3.Error: it cannot be written; the one before is as it was.
    """
    new = new_place(out)
    with closing(connect_new(new)) as index:
        create_tables(index, table.columns)
        index.execute("BEGIN")
        insert_files(index, seen, source, table)
        insert_columns(index, table.columns, len(table.paths))
        (count,) = index.execute("SELECT count(number) FROM files").fetchone()
        content = content_hash(index)
        meta = {
            "format": FORMAT,
            "files": str(count),
            "content_sha256": content,
            "columns": json.dumps(list(table.columns)),
            "fingerprint": source.fingerprint,
            "follow_links": str(int(source.follow_links)),
            "channels": str(source.channels or ""),
            "command": command,
            "bigrun": __version__,
            "created_utc": now_utc(),
        }
        write_meta(index, meta)
        index.execute("COMMIT")
        report = IndexReport(
            root=source.root,
            index=out,
            files=count,
            bytes=index.execute("SELECT coalesce(sum(bytes), 0) FROM files WHERE number IS NOT NULL").fetchone()[0],
            kinds=kinds(index),
            faults=faults(index),
            duplicates=duplicates(index),
            changes=changes(index, out),
            content_hash=content,
            seconds=0.0,
        )
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(out)
    sync_directory(out.parent)
    return report


def new_place(out: Path) -> Path:
    """Where an index is written before it takes its place."""
    return out.with_name(out.name + ".new")


def insert_files(index: sqlite3.Connection, seen: sqlite3.Connection, source: Source, table: FileTable) -> None:
    """One row for each file in the source's order; the good ones are numbered. What the source refused comes last."""
    row, number = -1, 0
    places = ", ".join("?" * (3 + len(attrs.fields(Facts))))
    insert = f"INSERT INTO files (row, number, path, {NAMES}) VALUES ({places})"
    select = f"SELECT {NAMES}, cause IS NULL FROM seen WHERE path = ?"

    def rows() -> Iterable[tuple[Any, ...]]:
        nonlocal row, number
        for row, path in enumerate(table.paths):
            name = stored_text(os.fsencode(path))
            *facts, good = seen.execute(select, (name,)).fetchone()
            yield row, number if good else None, name, *facts
            number += good

    index.executemany(insert, rows())
    for path, error in table.faults.items():
        row += 1
        facts = facts_of_refused(source.root, path, error, confined=not source.follow_links)
        name = stored_text(os.fsencode(path))
        index.execute(insert, (row, None, name, *attrs.astuple(facts, recurse=False)))


def content_hash(index: sqlite3.Connection) -> str:
    """SHA-256 over (SHA-256 of the contents, path, NUL) of all good files, sorted; in hex.

    It says what the files are and what they are called below the root, not where that is and in which order they come.
    """
    digest = hashlib.sha256()
    rows = index.execute(
        "SELECT sha256, CAST(path AS BLOB) AS name FROM files WHERE number IS NOT NULL AND cause IS NULL "
        "ORDER BY sha256, name"
    )
    for sha256, name in rows:
        digest.update((sha256 or bytes(32)) + name + b"\0")
    return digest.hexdigest()


def now_utc() -> str:
    """The time to the second, as 2026-11-29T03:12:45Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def kinds(index: sqlite3.Connection) -> list[tuple[int, str, int]]:
    return index.execute(
        "SELECT channels, dtype, count(*) AS n FROM files WHERE number IS NOT NULL GROUP BY channels, dtype "
        "ORDER BY n DESC, channels, dtype"
    ).fetchall()


def faults(index: sqlite3.Connection) -> list[tuple[str, str, str]]:
    query = "SELECT CAST(path AS BLOB), cause, message FROM files WHERE cause IS NOT NULL ORDER BY row"
    return [(os.fsdecode(path), cause, message) for path, cause, message in index.execute(query)]


def duplicates(index: sqlite3.Connection) -> list[list[str]]:
    """Groups of paths with the same content, in the order of their first files."""
    groups: dict[bytes, list[str]] = {}
    query = (
        "SELECT sha256, CAST(path AS BLOB) FROM files WHERE number IS NOT NULL AND sha256 IN (SELECT sha256 FROM files "
        "WHERE number IS NOT NULL GROUP BY sha256 HAVING count(*) > 1) ORDER BY row"
    )
    for sha256, path in index.execute(query):
        groups.setdefault(sha256, []).append(os.fsdecode(path))
    return list(groups.values())


def changes(index: sqlite3.Connection, out: Path) -> Changes | None:
    """What is new since the index that lies at `out`."""
    if not out.is_file():
        return None
    try:
        index.execute("ATTACH ? AS old", (str(out),))
        both = "FROM files AS f JOIN old.files AS o ON o.path = f.path"
        (common, kept) = index.execute(f"SELECT count(*), coalesce(sum(o.sha256 IS f.sha256), 0) {both}").fetchone()
        (now,) = index.execute("SELECT count(*) FROM files").fetchone()
        (before,) = index.execute("SELECT count(*) FROM old.files").fetchone()
    except sqlite3.DatabaseError:  # the one before is damaged
        return None
    return Changes(added=now - common, changed=common - kept, lost=before - common, kept=kept)
