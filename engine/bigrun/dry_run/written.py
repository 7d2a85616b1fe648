"""What a run writes into its directory, by name, and how fast that grows. Torch-free."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median

import attrs

from bigrun.checkpoint.layout import CHECKPOINTS
from bigrun.lock import LOCK
from bigrun.logs import TELEMETRY

__all__ = ["Written", "look_at_files", "sizes_of"]

DAY_SECONDS = 86400.0
NO_GROWTH = (CHECKPOINTS, LOCK)


@attrs.frozen
class Written:
    """A file or a folder of the run directory."""

    name: str
    files: int
    bytes: int
    bytes_per_day: float | None = None
    """Of a log, above 0. None is not known, and not 0: what a usual step adds nothing to may grow later or seldom."""


def sizes_of(directory: Path) -> dict[str, int]:
    """Bytes of everything in a run directory but its checkpoints, by name, while it is written; nothing of one that is
    gone."""
    return {entry.name: sum(size for _, size in files_of(entry)) for entry in entries(directory)}


def look_at_files(
    directory: Path,
    sizes: Mapping[int, Mapping[str, int]],
    elapsed_seconds: float,
    step_seconds: float,
    log_every_steps: int,
) -> list[Written]:
    """Everything in a run directory but its checkpoints.

    Args:
        sizes: by step, `sizes_of` after it. Each step has a row in the logs.
        elapsed_seconds: that the steps took.
        step_seconds: of a step of the run.
        log_every_steps: of the run, whose logs have a row for each so many steps.
    """
    rows_per_day = DAY_SECONDS / step_seconds / log_every_steps
    found = []
    for entry in sorted(entries(directory)):
        files = dict(files_of(entry))
        if not files:
            continue
        size = sum(files.values())
        if [file.name for file in files] == [TELEMETRY]:  # rows come with time, not with steps
            per_day = size / elapsed_seconds * DAY_SECONDS if size else None
        else:
            per_row = row_bytes(sizes, entry.name)
            per_day = None if per_row is None else rows_per_day * per_row
        found.append(Written(entry.name, len(files), size, per_day))
    return found


def row_bytes(sizes: Mapping[int, Mapping[str, int]], name: str) -> float | None:
    """What a usual step adds: a row of a log, without what comes now and then, as pictures do.

    None where the steps do not tell it: fewer than two are known, or a usual one adds nothing, which is so of a file of
    the start and of one that grows later or seldom.
    """
    known = [sizes[step].get(name, 0) for step in sorted(sizes)]
    added = [after - before for before, after in pairwise(known)]
    usual = median(added) if added else 0
    return usual if usual > 0 else None


def entries(directory: Path) -> list[Path]:
    """Of a run directory, without its checkpoints; none if it is gone meanwhile."""
    with contextlib.suppress(OSError):
        return [entry for entry in directory.iterdir() if entry.name not in NO_GROWTH]
    return []


def files_of(entry: Path) -> Iterator[tuple[Path, int]]:
    """The file, or those in a folder, with their bytes, until one is gone meanwhile."""
    with contextlib.suppress(OSError):
        for file in entry.rglob("*") if entry.is_dir() else [entry]:
            if file.is_file():
                yield file, file.stat().st_size
