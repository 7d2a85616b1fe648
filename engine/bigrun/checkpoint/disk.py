"""Files that are known to be on the disk: hashed as they are written, synced, and read back. Torch-free."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["FileRecord", "hash_file", "read_text", "require_regular", "sync", "sync_directory", "sync_files", "write"]

PIECE_BYTES = 4 << 20  # hashed and written while it is still in the processor's cache


@attrs.frozen
class FileRecord:
    """The size in bytes and the sha256 (64 hexadecimal digits) of a file."""

    bytes: int
    sha256: str


def write(path: Path, chunks: Iterable[bytes | memoryview]) -> FileRecord:
    """Write a new file; returns the record of the bytes that were meant, not of those that arrived.

    Chunks are bytes or one-dimensional views of bytes. Nothing is synced: see `sync`.

    Raises:
        OSError: the disk is full, the file exists, ...
    """
    digest = hashlib.sha256()
    size = 0
    with path.open("xb") as file:
        for chunk in chunks:
            view = memoryview(chunk)
            size += view.nbytes
            for start in range(0, view.nbytes, PIECE_BYTES):
                piece = view[start : start + PIECE_BYTES]
                digest.update(piece)
                file.write(piece)
    return FileRecord(size, digest.hexdigest())


def sync(directory: Path) -> None:
    """Force every file of `directory`, and the directory itself, to the disk.

    The cached pages are dropped, so that reading the files back reads the disk and not the memory that was
    just written.
    """
    sync_files(directory.iterdir())
    sync_directory(directory)


def sync_files(paths: Iterable[Path]) -> None:
    """Force files to the disk, and drop their cached pages; not their names: see `sync_directory`."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sync_directory(directory: Path) -> None:
    """Force the names in `directory` to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_regular(path: Path) -> None:
    """Raise OSError unless `path` is an ordinary file: opening a FIFO may never return."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(f"{path} is not a regular file")


def read_text(path: Path) -> str:
    """The UTF-8 text of an ordinary file.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    require_regular(path)
    return path.read_text(encoding="utf-8")


def hash_file(path: Path) -> str:
    """The sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
