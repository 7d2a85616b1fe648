"""What an index knows of one file, and how it finds out."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import attrs

from bigrun.data.faults import BadImageError
from bigrun.data.files.paths import locate
from bigrun.data.files.probe import decoded_shape, header_shape
from bigrun.data.formats.opening import fault_of_system, open_regular

__all__ = ["Facts", "Glance", "Piece", "difference", "examine", "facts_of_refused", "read_file"]


@attrs.frozen
class Glance:
    """What is known of a file from before: while it is the same, it is not read again."""

    size_bytes: int | None
    mtime_ns: int | None
    decoded: int | None
    cause: str | None

    def suffices(self, *, decode: bool) -> bool:
        """A bad file may have been repaired without a trace, by a mount or a permission; and a header tells less."""
        return self.cause is None and (bool(self.decoded) or not decode)


@attrs.frozen
class Facts:
    """One file; the fields are the columns FACTS of the table. None: not known, for the file is bad."""

    size_bytes: int | None = None
    mtime_ns: int | None = None
    width: int | None = None
    height: int | None = None
    channels: int | None = None
    dtype: str | None = None
    mode: str | None = None
    sha256: bytes | None = None
    decoded: int | None = 0
    """None for a file that its source has refused: whether it can be decoded does not matter."""
    cause: str | None = None
    message: str | None = None


@attrs.frozen
class Piece:
    """Files to be examined by one process, one after the other."""

    root: Path
    paths: Sequence[str]
    known: Sequence[Glance | None]
    follow_links: bool
    channels: int | None
    decode: bool


def examine(piece: Piece) -> list[Facts | None]:
    """The facts of each file of a piece; None for one that is as it was known."""
    return [examine_file(piece, path, known) for path, known in zip(piece.paths, piece.known, strict=True)]


def examine_file(piece: Piece, path: str, known: Glance | None) -> Facts | None:
    size: int | None = None
    mtime_ns: int | None = None
    sha256: bytes | None = None
    try:
        place = locate(piece.root, path, confined=not piece.follow_links)
        data, size, mtime_ns = read_file(place, known if known and known.suffices(decode=piece.decode) else None)
        if data is None:
            return None
        sha256 = hashlib.sha256(data).digest()
        thorough = piece.decode or (known is not None and known.cause is not None)  # what was found stays found
        shape = None if thorough else header_shape(data)
        is_decoded = shape is None
        shape = shape or decoded_shape(place, piece.channels, data)
    except BadImageError as error:
        return Facts(size, mtime_ns, sha256=sha256, cause=error.cause, message=error.message)
    return Facts(
        size,
        mtime_ns,
        shape.width,
        shape.height,
        shape.channels,
        shape.dtype,
        shape.mode,
        sha256,
        int(is_decoded),
    )


def facts_of_refused(root: Path, path: str, error: BadImageError, *, confined: bool) -> Facts:
    """Of a file that its source has refused: what shows when it is another one."""
    size: int | None = None
    mtime_ns: int | None = None
    sha256: bytes | None = None
    with contextlib.suppress(BadImageError):
        data, size, mtime_ns = read_file(locate(root, path, confined=confined))
        sha256 = hashlib.sha256(data or b"").digest()
    return Facts(size, mtime_ns, sha256=sha256, decoded=None, cause=error.cause, message=error.message)


def read_file(place: str, known: Glance | None = None) -> tuple[bytes | None, int, int]:
    """Contents, bytes and mtime of a regular file; no contents when the other two are as known.

    Raises:
        BadImageError: "missing", "not-a-file" or "unreadable".
        OSError, MemoryError: no fault of the file's.
    """
    with open_regular(place) as file:
        status = os.fstat(file.fileno())
        if known and (status.st_size, status.st_mtime_ns) == (known.size_bytes, known.mtime_ns):
            return None, status.st_size, status.st_mtime_ns
        try:
            return file.read(), status.st_size, status.st_mtime_ns
        except OSError as error:
            raise fault_of_system(place, error) from error


def difference(place: Path, size: int, mtime_ns: int, sha256: bytes) -> str | None:
    """How a file differs from what is known of it: `changed`, `missing`, `unreadable`, or not at all.

    One of the same size and another time is read, and compared by its hash.
    """
    try:
        status = place.stat()
        if (status.st_size, status.st_mtime_ns) == (size, mtime_ns):
            return None
        if status.st_size != size or not stat.S_ISREG(status.st_mode):
            return "changed"
        with place.open("rb") as file:
            return None if hashlib.file_digest(file, "sha256").digest() == sha256 else "changed"
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "unreadable"
