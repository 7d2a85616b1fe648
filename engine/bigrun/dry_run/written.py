"""What a run writes into its directory, by name, and how fast that grows. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from bigrun.checkpoint.layout import CHECKPOINTS
from bigrun.lock import LOCK
from bigrun.logs import METRICS, TELEMETRY

__all__ = ["Written", "look_at_files"]

DAY_SECONDS = 86400.0
NO_GROWTH = (CHECKPOINTS, LOCK)


@attrs.frozen
class Written:
    """A file or a folder of the run directory."""

    name: str
    files: int
    bytes: int
    bytes_per_day: float | None = None
    """Of a log; None of what is written at the start, or whose growth a few steps do not tell."""


def look_at_files(
    directory: Path, steps: int, elapsed_seconds: float, step_seconds: float, log_every_steps: int
) -> list[Written]:
    """Everything in a run directory but its checkpoints.

    Args:
        steps: that were taken, each with a row in the logs.
        elapsed_seconds: that they took.
        step_seconds: of a step of the run.
        log_every_steps: of the run, whose logs have a row for each so many steps.
    """
    rows_per_day = DAY_SECONDS / step_seconds / log_every_steps
    found = []
    for entry in sorted(directory.iterdir()):
        if entry.name in NO_GROWTH:
            continue
        files = [file for file in (entry.rglob("*") if entry.is_dir() else [entry]) if file.is_file()]
        if not files:
            continue
        size = sum(file.stat().st_size for file in files)
        growing = grows_by(files)
        day = {"row": size / max(steps, 1) * rows_per_day, "second": size / elapsed_seconds * DAY_SECONDS}
        found.append(Written(entry.name, len(files), size, None if growing is None else day[growing]))
    return found


def grows_by(files: Sequence[Path]) -> str | None:
    """Whether files get more with each row of the metrics, or with the time."""
    names = [file.name for file in files]
    if names == [TELEMETRY]:
        return "second"
    is_log = all(name == METRICS or "tfevents" in name for name in names)
    return "row" if is_log else None
