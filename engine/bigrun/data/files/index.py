"""`bigrun data index`: read every file of a data set once."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from bigrun.data.files.facts import Facts, Glance, Piece, examine
from bigrun.data.files.index_file import new_place, write_index
from bigrun.data.files.recorded import Source
from bigrun.data.files.report import IndexReport
from bigrun.data.files.schema import FACTS, INDEX, NAMES, connect_read_only, stored_text
from bigrun.data.files.table import FileTable
from bigrun.errors import DataIndexError
from bigrun.parallel import GOES_ON, in_order
from bigrun.progress import Advance, Watch, quiet
from bigrun.shortage import shortages_told

__all__ = ["build_index", "index_place"]

PIECE_FILES = 64
COMMIT_SECONDS = 2.0
"""What a kill costs, at most."""


def index_place(source: Source, out: Path | None = None) -> Path:
    """Where the index of a source is to lie: `out`, else where the data set looks for it."""
    return (out or source.index or source.root / INDEX).absolute()


def build_index(
    source: Source,
    table: FileTable,
    out: Path,
    *,
    decode: bool = False,
    workers: int = 0,
    command: str = "",
    watch: Watch = quiet,
) -> IndexReport:
    """Read the files of a source and write their index; only those that are new or have another size or time.

    What was read is kept beside the index (`.partial`) until that is complete: after a kill the same call goes on
    where it stopped. The index before stays until the new one takes its place.

    Args:
        table: what the source lists.
        decode: decode every image, instead of reading its header.
        workers: processes that read; 0 reads in this one.
        command: what a user repeats when the index is out of date.
        watch: shows how far it is.

    Raises:
        DataIndexError: it cannot be written, or another process is writing it.
        BigrunError: a process that reads died, or there are no open files or no memory left.
    """
    if not out.parent.is_dir():
        raise DataIndexError(f"{out}: there is no folder {out.parent} to write it in: make it, or give another --out")
    began = time.monotonic()
    try:
        with shortages_told(GOES_ON), closing(open_seen(out)) as seen:
            adopt(seen, out, source.channels)
            with watch("indexing", len(table.paths)) as advance:
                read(seen, source, table, decode=decode, workers=workers, advance=advance)
            report = write_index(seen, source, table, out, command)
    except (sqlite3.Error, OSError) as error:
        with contextlib.suppress(OSError):
            new_place(out).unlink(missing_ok=True)
        raise DataIndexError(
            f"{out}: the index cannot be written ({error}); is another `bigrun data index` at work, the disk full or "
            "read-only? --out FILE writes it elsewhere, and data.index = FILE uses it there"
        ) from error
    for rest in (work_place(out), work_place(out).with_name(work_place(out).name + "-journal")):
        rest.unlink(missing_ok=True)
    return attrs.evolve(report, seconds=time.monotonic() - began)


def work_place(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def open_seen(out: Path) -> sqlite3.Connection:
    """The facts that are known by path; what a killed process has left is taken over. One process at a time."""
    place = work_place(out)
    for attempt in range(2):
        seen = sqlite3.connect(place, isolation_level=None, timeout=0)
        try:
            seen.execute("PRAGMA locking_mode = EXCLUSIVE")
            seen.execute("PRAGMA synchronous = NORMAL")
            seen.execute("BEGIN EXCLUSIVE")
            seen.execute(f"CREATE TABLE IF NOT EXISTS seen (path PRIMARY KEY NOT NULL, {FACTS}) WITHOUT ROWID")
            seen.execute("COMMIT")
            return seen
        except sqlite3.OperationalError:  # locked, read-only, full
            seen.close()
            raise
        except sqlite3.DatabaseError:  # power was lost while it was written
            seen.close()
            if attempt:
                raise
            place.unlink()
    raise AssertionError


def adopt(seen: sqlite3.Connection, out: Path, channels: int | None) -> None:
    """Take over what the index before knows, where nothing newer is known.

    What is known of NumPy arrays is forgotten where it was for a model of other channels, which tell their axes.
    """
    if seen.execute("PRAGMA user_version").fetchone() != (channels or 0,):
        seen.execute("DELETE FROM seen WHERE mode = 'NPY'")
        seen.execute(f"PRAGMA user_version = {channels or 0}")
    if out.is_file():
        places = ", ".join("?" * (1 + len(attrs.fields(Facts))))
        seen.execute("BEGIN")
        seen.executemany(f"INSERT OR IGNORE INTO seen VALUES ({places})", rows_before(out, channels))
        seen.execute("COMMIT")


def rows_before(out: Path, channels: int | None) -> Iterator[tuple[Any, ...]]:
    """Path and facts of the files of an index; one that is damaged knows nothing."""
    query = (
        f"SELECT path, {NAMES} FROM files WHERE mode IS NOT 'NPY' "
        "OR (SELECT value FROM meta WHERE key = 'channels') = ? ORDER BY path"
    )
    with closing(connect_read_only(out)) as old, contextlib.suppress(sqlite3.DatabaseError):
        yield from old.execute(query, (str(channels or ""),))


def read(
    seen: sqlite3.Connection,
    source: Source,
    table: FileTable,
    *,
    decode: bool,
    workers: int,
    advance: Advance,
) -> None:
    """Bring `seen` up to date with the files."""
    places = ", ".join("?" * (1 + len(attrs.fields(Facts))))
    seen.execute("BEGIN")
    committed = time.monotonic()
    names = iter(table.paths)
    for results in in_order(examine, pieces(seen, source, table, decode=decode), workers, advice=GOES_ON):
        rows = [
            (stored_text(os.fsencode(name)), *attrs.astuple(facts, recurse=False))
            for facts, name in zip(results, names, strict=False)
            if facts is not None
        ]
        seen.executemany(f"INSERT OR REPLACE INTO seen VALUES ({places})", rows)
        advance(len(results))
        if time.monotonic() - committed > COMMIT_SECONDS:
            seen.execute("COMMIT")
            seen.execute("BEGIN")
            committed = time.monotonic()
    seen.execute("COMMIT")


def pieces(seen: sqlite3.Connection, source: Source, table: FileTable, *, decode: bool) -> Iterator[Piece]:
    """The files in portions, each with what is known of it."""
    (something,) = seen.execute("SELECT count(*) FROM (SELECT 1 FROM seen LIMIT 1)").fetchone()
    for start in range(0, len(table.paths), PIECE_FILES):
        paths = [table.paths[number] for number in range(start, min(start + PIECE_FILES, len(table.paths)))]
        known = [glance(seen, path) if something else None for path in paths]
        yield Piece(source.root, paths, known, source.follow_links, source.channels, decode)


def glance(seen: sqlite3.Connection, path: str) -> Glance | None:
    """What is known of a file."""
    query = "SELECT bytes, mtime_ns, decoded, cause FROM seen WHERE path = ?"
    row = seen.execute(query, (stored_text(os.fsencode(path)),)).fetchone()
    return Glance(*row) if row else None
