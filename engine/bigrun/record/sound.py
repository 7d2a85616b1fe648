"""Whether the newest checkpoint of a run is there in its size, and from which one the run would go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import attrs

from bigrun.checkpoint.layout import CHECKPOINTS, holds_checkpoint, parse_step
from bigrun.checkpoint.listing import Entry, examine

__all__ = ["Saved", "newest_states"]

ATTEMPTS = 3


@attrs.frozen
class Saved:
    """What is left of a run."""

    step: int | None = None
    """Of the newest checkpoint that is not damaged; None where there is none."""
    damaged: Entry | None = None
    """The newest checkpoint, where it is damaged."""


def newest_states(directory: Path) -> Saved:
    """Look from the newest checkpoint on until one is whole: names and sizes are compared, and of the files only the
    manifest and the facts of a checkpoint are read. A run that goes on may write and remove checkpoints meanwhile."""
    damaged: Entry | None = None
    for path in newest_first(directory / CHECKPOINTS):
        entry = looked_at(path)
        if entry is None:
            continue
        if entry.condition != "damaged":
            return Saved(entry.step, damaged)
        damaged = damaged or entry
    return Saved(None, damaged)


def newest_first(folder: Path) -> Iterator[Path]:
    found: list[tuple[int, Path]] = []
    with contextlib.suppress(OSError):
        found = [(step, path) for path in folder.iterdir() if (step := parse_step(path.name)) is not None]
    yield from (path for _, path in sorted(found, reverse=True))


def looked_at(path: Path) -> Entry | None:
    """One checkpoint; None where it is none any more. Checkpoints come and go by renaming their directory: what
    was seen of one that is not the same afterwards says nothing."""
    for _ in range(ATTEMPTS):
        before = identity(path)
        if before is None or not holds_checkpoint(path):
            return None
        entry = examine(path, CHECKPOINTS, verify=False)
        if identity(path) == before:
            return entry
    return None


def identity(path: Path) -> tuple[int, int, int] | None:
    """Of a directory: its number, which another one may get after it, and when it was named or changed last."""
    with contextlib.suppress(OSError):
        facts = path.lstat()
        return facts.st_dev, facts.st_ino, facts.st_ctime_ns
    return None
