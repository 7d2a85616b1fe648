"""Whether an index still says what the files are: asked at every start, of the source and of some files."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from bigrun.errors import DataIndexError

__all__ = ["SAMPLE", "check_fresh"]

SAMPLE = 202
"""Files that are looked at, evenly over all, the first and the last among them."""


def check_fresh(
    index: sqlite3.Connection,
    meta: Mapping[str, str | None],
    root: Path,
    place: Path,
    fingerprint: Callable[[], str] | None,
) -> None:
    """Compare the index with the source's fingerprint, and sizes and times of a sample of the files.

    A file of the same size and another time is read and compared by its hash: a copy of the data set is the data set.

    Raises:
        DataIndexError: the index is out of date.
    """
    again = f"run `{meta['command'] or f'bigrun data index {root}'}` again: it reads only what is new"
    now = fingerprint() if fingerprint else None
    if now != meta["fingerprint"]:
        raise DataIndexError(
            f"{place}: the index is out of date: the source lists other files than it did on {meta['created_utc']}; "
            f"{again}"
        )
    wrong: dict[str, list[str]] = {}
    names = sample(index, int(meta["files"] or 0))
    for path, size, mtime_ns, sha256 in names:
        problem = difference(root / path, size, mtime_ns, sha256)
        if problem:
            wrong.setdefault(problem, []).append(path)
    if wrong:
        counts = ", ".join(f"{len(paths)} {problem}" for problem, paths in sorted(wrong.items()))
        first = min(path for paths in wrong.values() for path in paths)
        raise DataIndexError(
            f"{place}: the index is out of date: of {len(names)} files that were looked at, {counts} (first: {first}); "
            f"{again}"
        )


def sample(index: sqlite3.Connection, files: int) -> list[tuple[str, int, int, bytes]]:
    """Path, bytes, mtime and hash of some files."""
    last = max(files - 1, 0)
    chosen = sorted({last * turn // max(SAMPLE - 1, 1) for turn in range(SAMPLE)} if files else ())
    places = ", ".join("?" * len(chosen))
    rows = index.execute(
        f"SELECT CAST(path AS BLOB), bytes, mtime_ns, sha256 FROM files WHERE number IN ({places})", chosen
    )
    return [(os.fsdecode(path), size, mtime_ns, sha256) for path, size, mtime_ns, sha256 in rows]


def difference(place: Path, size: int, mtime_ns: int, sha256: bytes) -> str | None:
    try:
        status = place.stat()
        if (status.st_size, status.st_mtime_ns) == (size, mtime_ns):
            return None
        if status.st_size != size or not stat.S_ISREG(status.st_mode):
            return "changed"
        with place.open("rb") as file:
            return None if hashlib.file_digest(file, "sha256").digest() == sha256 else "changed"
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "unreadable"
