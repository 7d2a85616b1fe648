"""What a file holds, and what it means when it cannot be read.

Files are known by the hash of all their bytes, which is read once more for it: sizes and times say too little, since a
corrected number has the size of the wrong one, and copies and archives have times of their own.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from bigrun.data.formats.opening import is_of_machine
from bigrun.errors import BigrunError
from bigrun_ct_import.skips import Refused, Skip

__all__ = ["content_of", "digest", "unreadable"]


def digest(path: str) -> bytes:
    """SHA-256 of a file. Raises: OSError."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def content_of(path: str) -> bytes | Skip:
    """`digest`, for a process of a pool. Raises: BigrunError."""
    try:
        return digest(path)
    except OSError as error:
        return unreadable(path, error).skip(path, series=True)


def unreadable(path: str, error: Exception) -> Refused:
    """What a reader's error says of a file.

    Raises:
        BigrunError: the file is not to blame: this process may open no more files, or has no memory.
    """
    cause: BaseException | None = error
    while cause is not None and not is_of_machine(cause):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return Refused("unreadable", f"{type(error).__name__}: {error}")
    lacking = (cause.strerror if isinstance(cause, OSError) else "") or "not enough memory"
    raise BigrunError(
        f"{path}: {lacking}; --workers 1 needs the least, and the same command goes on where this one stopped"
    ) from error
