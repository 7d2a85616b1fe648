"""Which checkpoints are whole, each read once by a process. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.checkpoint import manifest
from bigrun.checkpoint.layout import MANIFEST
from bigrun.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Verified", "find_problems", "has_manifest"]


class Verified:
    """Remembers what was read, or written and read back, by step and by the time of the manifest, which tells one save
    of a step from another."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def add(self, step: int, path: Path) -> None:
        """The checkpoint was just found whole."""
        self._seen[step] = stamp(path)

    def holds(self, step: int, path: Path) -> bool:
        """Whether a checkpoint is whole; it is read if this process has not done so."""
        try:
            if self._seen.get(step) != stamp(path):
                if find_problems(path, step):
                    return False
                self.add(step, path)
        except (CheckpointError, OSError):  # of a newer format, or gone meanwhile
            return False
        return True


def stamp(path: Path) -> int:
    return (path / MANIFEST).stat().st_mtime_ns


def has_manifest(path: Path) -> bool:
    """Whether there is a manifest that can be read; nothing is hashed."""
    try:
        manifest.read(path)
    except CheckpointError:
        return False
    return True


def find_problems(path: Path, step: int) -> list[str]:
    """What `manifest.verify` finds, and whether the checkpoint is of `step` as its directory says."""
    problems = manifest.verify(path)
    if not problems:
        saved = manifest.read(path).step
        if saved != step:
            problems.append(f"{MANIFEST}: is of step {saved}, the directory of step {step}")
    return problems
