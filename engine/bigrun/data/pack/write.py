"""`bigrun data pack`: decode every file of a data set once and write its pixels down."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from bigrun.checkpoint.disk import hash_file
from bigrun.data.files.index_file import content_hash, now_utc
from bigrun.data.files.listed import ListedFiles
from bigrun.data.files.schema import NAMES, stored_text
from bigrun.data.pack.decode import Decoded, Portion, decode_portion
from bigrun.data.pack.marker import TABLES, write_marker
from bigrun.data.pack.report import PackReport
from bigrun.data.pack.room import require_room
from bigrun.data.pack.shards import SHARD_BYTES, ShardWriter, shard_name
from bigrun.data.pack.tables import check_unused, finish_tables, open_tables, reached
from bigrun.data.pack.verify import require_verified
from bigrun.errors import DataIndexError
from bigrun.parallel import GOES_ON, in_order
from bigrun.progress import Watch, quiet
from bigrun.shortage import shortages_told
from bigrun.version import __version__

__all__ = ["write_pack"]

PORTION_FILES = 8
COMMIT_SECONDS, COMMIT_BYTES = 5.0, 1 << 30
"""What a kill costs, at most."""

ROW = f"row, number, path, {NAMES}, shard, start, pixels_sha256"


def write_pack(
    files: ListedFiles,
    out: Path,
    *,
    workers: int = 0,
    shard_bytes: int = SHARD_BYTES,
    watch: Watch = quiet,
) -> PackReport:
    """Pack the files; after a kill the same call goes on where it stopped.

    A file keeps the number that it has in `files`. One that cannot be decoded keeps it, too, and says so when it is
    asked for, as the file itself would: so a training from the packed form takes the same replacement for it.

    Args:
        files: listed or indexed files.
        out: a new folder, or one in which this was begun.
        workers: processes that decode; 0 decodes in this one.
        watch: shows how far it is.

    Raises:
        DataIndexError: there is something else in `out`, the disk has no room or refuses, a file is another one than
            when it was indexed, or what was written is read back as something else.
        BigrunError: a process that decodes died, or there are no open files or no memory left.
    """
    began = time.monotonic()
    check_unused(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with shortages_told(GOES_ON), closing(open_tables(out / TABLES, files)) as tables:
            begun = reached(tables)
            require_room(files, out, already=begun.bytes)
            shards = ShardWriter(out, begun.shard, begun.size, shard_bytes)
            with shards, watch("packing", len(files)) as advance:
                advance(begun.files)
                decode(tables, shards, files, begun.files, workers, advance)
                shards.finish()
            finish_tables(tables, files)
            content, last = files.content_hash or content_hash(tables), shards.shard
    except (OSError, sqlite3.Error) as error:
        raise DataIndexError(
            f"{out}: cannot be written ({error}); the same command goes on where this one stopped, once there is room"
        ) from error
    with watch("verifying", len(files)) as verified:
        require_verified(out, workers, verified)
    write_marker(out, marker_facts(out, len(files), content, last))
    return PackReport.of(out, time.monotonic() - began)


def marker_facts(out: Path, files: int, content: str, last_shard: int) -> dict[str, Any]:
    """What the marker says."""
    names = [shard_name(shard) for shard in range(last_shard + 1)]
    return {
        "files": files,
        "content_sha256": content,
        "shards": [{"file": name, "bytes": (out / name).stat().st_size} for name in names],
        "tables": {"bytes": (out / TABLES).stat().st_size, "sha256": hash_file(out / TABLES)},
        "bigrun": __version__,
        "created_utc": now_utc(),
    }


def decode(
    tables: sqlite3.Connection,
    shards: ShardWriter,
    files: ListedFiles,
    first: int,
    workers: int,
    advance: Callable[[int], None],
) -> None:
    """Append the files from number `first` on; what the tables say of an image is said when it is on the disk."""
    known = files.hashes() if first < len(files) else None
    insert = f"INSERT INTO files ({ROW}) VALUES ({', '.join('?' * len(ROW.split(', ')))})"
    rows: list[tuple[Any, ...]] = []
    number, waiting, committed = first, 0, time.monotonic()
    for results in in_order(decode_portion, portions(files, first), workers, advice=GOES_ON):
        for decoded in results:
            if known is not None and decoded.facts.sha256 != known[number].tobytes():
                raise DataIndexError(
                    f"{files.path(number)}: another file than when it was indexed; run `bigrun data index` again, "
                    f"remove {shards.folder} and pack again"
                )
            rows.append((number, number, stored_text(os.fsencode(files.path(number))), *place(shards, decoded)))
            number, waiting = number + 1, waiting + (decoded.pixels.nbytes if decoded.pixels is not None else 0)
        advance(len(results))
        if waiting > COMMIT_BYTES or time.monotonic() - committed > COMMIT_SECONDS:
            commit(tables, shards, insert, rows)
            waiting, committed = 0, time.monotonic()
    commit(tables, shards, insert, rows)


def commit(tables: sqlite3.Connection, shards: ShardWriter, insert: str, rows: list[tuple[Any, ...]]) -> None:
    shards.sync()
    tables.execute("BEGIN")
    tables.executemany(insert, rows)
    tables.execute("COMMIT")
    rows.clear()


def place(shards: ShardWriter, decoded: Decoded) -> tuple[Any, ...]:
    """Write an image; returns what its row says after the path."""
    facts = attrs.astuple(decoded.facts, recurse=False)
    if decoded.pixels is None:
        return (*facts, None, None, None)
    return (*facts, *shards.append(decoded.pixels), decoded.pixels_sha256)


def portions(files: ListedFiles, first: int) -> Iterator[Portion]:
    for start in range(first, len(files), PORTION_FILES):
        numbers = range(start, min(start + PORTION_FILES, len(files)))
        yield Portion(files.root, [files.path(number) for number in numbers], files.confined, files.channels)
