"""Room on the disk for checkpoints. Torch-free."""

from __future__ import annotations

import contextlib
import errno
import shutil
from typing import TYPE_CHECKING

from bigrun.errors import NotSavedError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LOW", "RESERVE_BYTES", "free_bytes", "human_bytes", "needed", "require_room"]

LOW = 2
"""Room for fewer checkpoints than this is worth a warning."""
RESERVE_BYTES = 1 << 20  # the facts, and what a file system needs for itself


def free_bytes(directory: Path) -> int:
    """What an ordinary user may still write where the directory is, or will be.

    Raises:
        OSError: the disk does not say.
    """
    place = directory
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def require_room(directory: Path, size: int) -> bool:
    """Whether there is room for two checkpoints of `size` bytes, which a save should find.

    Raises:
        NotSavedError: there is none for one, or the disk does not say.
    """
    try:
        free = free_bytes(directory)
    except OSError as error:
        raise NotSavedError(f"{directory}: not saved: {error}") from error
    if free < size + RESERVE_BYTES:
        raise NotSavedError(
            f"{directory}: not saved: a checkpoint takes {human_bytes(size)} and a reserve of "
            f"{human_bytes(RESERVE_BYTES)}, and the disk has {human_bytes(free)} left"
        )
    return free >= LOW * size + RESERVE_BYTES


def needed(directory: Path, size: int, cause: BaseException | None) -> str:
    """What a disk that has become full while `size` bytes were written to it does not say itself."""
    if not isinstance(cause, OSError) or cause.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ""
    takes = f"; it takes {human_bytes(size)}"
    with contextlib.suppress(OSError):
        if cause.errno != errno.EFBIG:  # whatever room there is, one file may not be so large
            return f"{takes}, and the disk has {human_bytes(free_bytes(directory))} left"
    return takes


def human_bytes(size: float) -> str:
    """Three digits and a unit: 5.61 GB, 980 kB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
