"""The bad files of an index, which it leaves out: whether they can be used by now."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from bigrun.data.decode import read_image
from bigrun.data.faults import BadImageError
from bigrun.data.files.facts import difference, read_file
from bigrun.data.files.paths import locate

__all__ = ["usable_again"]


def usable_again(
    index: sqlite3.Connection, root: Path, *, confined: bool, channels: int | None, most: int | None = None
) -> list[str]:
    """Paths of files that would not be left out if the index were made now.

    A file is decoded again: it may have been repaired, but also a permission, a disk, or a library that was missing.
    One that its source has refused would be refused again, unless it is another file than it was.

    Args:
        channels: of the model.
        most: so many are looked at, evenly over all; None for all.
    """
    columns = "CAST(path AS BLOB), bytes, mtime_ns, sha256, decoded IS NULL"
    rows = index.execute(f"SELECT {columns} FROM files WHERE cause IS NOT NULL ORDER BY row").fetchall()
    count = len(rows) if most is None else min(most, len(rows))
    chosen = (rows[turn * (len(rows) - 1) // max(count - 1, 1)] for turn in range(count))
    found = []
    for name, size, mtime_ns, sha256, is_refused in chosen:
        path = os.fsdecode(name)
        try:
            place = locate(root, path, confined=confined)
            if not is_refused:
                read_image(place, channels)
            elif sha256 is None:
                read_file(place)
            elif difference(Path(place), size, mtime_ns, sha256) != "changed":
                continue
        except BadImageError:
            continue
        found.append(path)
    return found
