"""The file that makes a folder a packed data set: written last."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bigrun.checkpoint.disk import sync_directory
from bigrun.errors import DataIndexError

__all__ = ["MARKER", "TABLES", "is_packed", "read_marker", "write_marker"]

FORMAT = 1
MARKER = "bigrun-pack.json"
TABLES = "bigrun-pack.sqlite"


def is_packed(root: Path) -> bool:
    """Whether a folder is a packed data set.

    Raises:
        DataIndexError: it is the beginning of one.
    """
    if (root / MARKER).is_file():
        return True
    if (root / TABLES).is_file():
        raise DataIndexError(f"{root}: a packed form that is not complete; the same `bigrun data pack` goes on with it")
    return False


def read_marker(root: Path) -> dict[str, Any]:
    """Raises DataIndexError when it is damaged, of another format, or files of it are missing or cut short."""
    try:
        marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
        if marker["format"] != FORMAT:
            raise ValueError(f"its format is {marker['format']!r}, expected {FORMAT}")
        sizes = {TABLES: marker["tables"]["bytes"]} | {shard["file"]: shard["bytes"] for shard in marker["shards"]}
        for name, size in sizes.items():
            if name != Path(name).name:
                raise ValueError(f"{name!r} is no name of a file in it")
            if (found := (root / name).stat().st_size) != size:
                raise ValueError(f"{name} has {found} bytes, expected {size}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataIndexError(
            f"{root}: a damaged packed form ({type(error).__name__}: {error}); pack the data set again, into another "
            "folder"
        ) from error
    return dict(marker)


def write_marker(root: Path, facts: Mapping[str, Any]) -> None:
    """Declare the folder complete. Raises OSError."""
    place = root / f"{MARKER}.new"
    with place.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"format": FORMAT, **facts}, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    place.replace(root / MARKER)
    sync_directory(root)
