"""Which checkpoints are whole, each read once by a process. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.checkpoint import manifest
from bigrun.checkpoint.layout import MANIFEST
from bigrun.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Verified", "every_damaged", "find_problems", "has_manifest"]


Stamp = frozenset[tuple[str, int, int]]


class Verified:
    """Remembers what was found, whole or not, by step and by sizes and times of the files: what was saved again, or put
    right, is read again."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Stamp | None, bool]] = {}

    def add(self, step: int, path: Path) -> None:
        """The checkpoint was just found whole."""
        self._seen[step] = (stamp(path), True)

    def is_known(self, step: int, path: Path) -> bool:
        """Whether a checkpoint was found whole; nothing is read."""
        try:
            return self._seen.get(step) == (stamp(path), True)
        except OSError:  # gone meanwhile
            return False

    def holds(self, step: int, path: Path) -> bool:
        """Whether a checkpoint is whole; it is read if this process has not done so."""
        try:
            now = stamp(path)
            if self._seen.get(step, (None, False))[0] != now:
                self._seen[step] = (now, not find_problems(path, step))
            return self._seen[step][1]
        except (CheckpointError, OSError):  # of a newer format, or gone meanwhile
            return False


def stamp(path: Path) -> Stamp:
    """Raises: OSError when the checkpoint is gone."""
    files = [(file.name, file.lstat()) for file in path.iterdir()]
    return frozenset((name, facts.st_mtime_ns, facts.st_size) for name, facts in files)


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


def every_damaged(directory: Path, lines: Sequence[str]) -> CheckpointError:
    """What to say when none of a folder's checkpoints can be used; a line for each."""
    advice = "Put a good copy in place, or move the directory away to start again from step 0."
    return CheckpointError("\n".join([f"{directory}: every checkpoint is damaged:", *lines, advice]))
