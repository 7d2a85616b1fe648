"""Where fetched data sets are, whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bigrun
from bigrun.errors import UsageError

__all__ = ["MARK", "cache_folder", "is_fetched", "prepared", "publish"]

MARK = "fetched.json"


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/bigrun/data`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bigrun" / "data"


def is_fetched(target: Path, name: str) -> bool:
    """Whether the data set is there, with all files that it had; others, as an index of it, may have come.

    Raises:
        UsageError: something else is there, or files were removed.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        facts = json.loads((target / MARK).read_text(encoding="utf-8"))
        is_it, expected = facts["data_set"] == name, list(facts.get("paths", []))  # the first marks list none
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        is_it, expected = False, []
    if not is_it:
        raise UsageError(f"{target}: is there and is not {name}; choose another place with --to")
    if missing := [path for path in expected if not (target / path).is_file()]:
        raise UsageError(
            f"{target}: lacks {len(missing):,} of the {len(expected):,} files that it was made with (first: "
            f"{missing[0]}); remove it and fetch it again"
        )
    return True


def files_of(folder: Path) -> list[str]:
    """All files, relative to the folder, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def prepared(target: Path) -> Iterator[Path]:
    """An empty folder beside the target, gone afterwards; of a fetch that was killed the next one removes it.

    Raises:
        UsageError: it cannot be made, or somebody else fetches to the same place.
    """
    scratch = target.with_name(f".{target.name}.partial")
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        lock = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{scratch}: cannot be made: {error.strerror}; choose another place with --to") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{target}: is being fetched by another process; wait for it") from None
        for path in scratch.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    finally:
        os.close(lock)


def publish(folder: Path, target: Path, facts: Mapping[str, Any]) -> None:
    """Mark a folder as complete, and rename it to its place.

    Raises:
        OSError: the disk is full, or something has come there meanwhile.
    """
    paths = files_of(folder)
    marked = {
        **facts,
        "files": len(paths),
        "bigrun_version": bigrun.__version__,
        "fetched_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "paths": paths,
    }
    (folder / MARK).write_text(json.dumps(marked, indent=2) + "\n", encoding="utf-8")
    os.sync()  # 70,000 small files, one after the other, would take minutes
    folder.rename(target)
