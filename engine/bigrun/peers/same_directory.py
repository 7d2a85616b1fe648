"""Whether all processes see the run directory of the main one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from bigrun.errors import RunDirectoryError
from bigrun.lock import written_owner

if TYPE_CHECKING:
    from bigrun.lock import RunLock
    from bigrun.run import Run

__all__ = ["check_same_directory"]

LOOK_SECONDS = 60.0
"""So long a process looks for what the main one has written: an NFS client may hold what it has not found for missing
for as long (acdirmax of nfs(5))."""


def check_same_directory(run: Run, lock: RunLock) -> None:
    """Look for the main process's lock: no other directory has one that says the same. Where the main one has none yet,
    nothing is looked at.

    Raises:
        RunDirectoryError: a process does not see it; all raise it.
    """
    if run.peers.size == 1:
        return
    owner = run.peers.by_main(lambda: str(lock.owner) if lock.owner else None)
    if owner is None:
        return
    sees = run.is_main or finds(run.directory, owner, min(LOOK_SECONDS, run.peers.patience_seconds / 2))
    looks = run.peers.gathered([sees, str(run.directory.absolute())])
    blind = [f"  {run.peers.name(rank)}, at {path}" for rank, (sees, path) in enumerate(looks) if not sees]
    if blind:
        raise RunDirectoryError(
            "\n".join(
                [
                    f"processes do not see the run directory of {run.peers.name(0)}, {looks[0][1]}:",
                    *blind,
                    "every process reads the checkpoints in it, and with parallel.strategy = 'fsdp' writes a part of "
                    "each: put it on storage that all machines share, at the same path (--run-dir)",
                ]
            )
        )


def finds(directory: Path, owner: str, seconds: float) -> bool:
    """Whether the lock there says so, or will within some seconds."""
    until = time.monotonic() + seconds
    while str(written_owner(directory)) != owner:
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True
