"""provenance.json: a line of descent for each run directory, one entry for each start."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bigrun.checkpoint.layout import PROVENANCE
from bigrun.directory import replace_file
from bigrun.links import read_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from bigrun.run import Run

__all__ = ["PROVENANCE", "record"]

FORMAT_VERSION = 1
FILE = f"{PROVENANCE}.json"


def record(run: Run, start: dict[str, Any]) -> None:
    """Add a start to the run directory's list. One that cannot be read is kept beside the new one, which is said."""
    path = run.directory / FILE
    starts: list[Any] = []
    try:
        starts = read_starts(path)
    except (OSError, ValueError, RecursionError) as error:
        kept = path.with_name(f"{FILE}.unreadable")
        run.event("provenance-unreadable", f"{path}: {error}; it is kept as {kept.name}, and begun anew", "warning")
        path.replace(kept)
    document = {"format_version": FORMAT_VERSION, "starts": [*starts, start]}
    replace_file(path, (json.dumps(document, indent=2) + "\n").encode())


def read_starts(path: Path) -> list[Any]:
    """Raises: OSError, ValueError."""
    try:
        document = json.loads(read_bytes(path))
    except FileNotFoundError:
        return []
    starts = document.get("starts") if isinstance(document, dict) else None
    if not isinstance(starts, list) or document.get("format_version") != FORMAT_VERSION:
        raise ValueError("no list of starts of a version that this bigrun knows")
    return starts
