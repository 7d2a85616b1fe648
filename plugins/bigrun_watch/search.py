"""The runs below a folder, and the folders that could not be searched for some."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import attrs

from bigrun.checkpoint.layout import CONFIG, is_run
from bigrun.record.place import is_run_alone

__all__ = ["Search", "find_runs"]

DEPTH = 4
"""Folders below the one that is listed; a run lies in the first one that has a configuration."""
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESRCH)
"""Removed meanwhile; ESRCH is that of a process's folder in /proc."""
SHOWN = 3


@attrs.define
class Search:
    """What a search has found."""

    runs: list[Path] = attrs.field(factory=list)
    """Directories of runs, by name. One that may not be entered is among them where its names say so, or where it lies
    beside a run: reading it says what is in the way."""
    closed: dict[Path, str] = attrs.field(factory=dict)
    """Other folders that could not be searched, and why."""

    @property
    def note(self) -> str:
        """One line that says what may be missing; "" where everything was searched."""
        if not self.closed:
            return ""
        shown = ", ".join(f"{path} ({why})" for path, why in [*self.closed.items()][:SHOWN])
        more = f" and {len(self.closed) - SHOWN:,} more" if len(self.closed) > SHOWN else ""
        folders = "folder" if len(self.closed) == 1 else "folders"
        return f"{len(self.closed):,} {folders} could not be searched for runs: {shown}{more}"


def find_runs(directory: Path) -> Search:
    """The run directories at or below a folder; hidden folders and links are passed over, and so is what lies inside of
    a run."""
    found, homes = Search(), set()
    for path, why in walk(directory):
        if why is None:
            homes.add(path.parent)
            found.runs.append(path)
        else:
            found.closed[path] = why
    beside = [path for path in found.closed if path != directory and path.parent in homes]
    for path in beside:
        del found.closed[path]
    found.runs = sorted([*found.runs, *beside], key=lambda path: path.parts)
    return found


def walk(directory: Path) -> Iterator[tuple[Path, str | None]]:
    """Every run, with None, and every folder that could not be searched, with the reason."""
    waiting = [(directory, 0)]
    while waiting:
        path, depth = waiting.pop()
        try:
            if is_run(path):
                if is_run_alone(path):
                    yield path, None
                continue
            below = folders_in(path)
        except OSError as error:
            if has_name_of_run(path):
                yield path, None
            elif error.errno not in GONE:
                yield path, error.strerror or str(error)
            continue
        if depth < DEPTH:
            waiting += [(path / name, depth + 1) for name in sorted(below, reverse=True)]


def folders_in(path: Path) -> list[str]:
    with os.scandir(path) as scan:
        return [e.name for e in scan if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]


def has_name_of_run(path: Path) -> bool:
    """Whether a folder that may be listed and not entered has a configuration."""
    try:
        return CONFIG in os.listdir(path)  # noqa: PTH208 - names alone
    except OSError:
        return False
