"""One file out of an archive, by its exact name, with its hash checked. Nothing is unpacked to where a name says."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bigrun.errors import UsageError

__all__ = ["check_file", "check_hash", "read_members"]

MOST_BYTES = 1 << 28
"""The largest member that is read is 26 MB."""
BROKEN = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError)


def check_file(path: Path, sha256: str) -> None:
    """Raises: UsageError unless the file has this hash."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    compare(str(path), digest.hexdigest(), sha256)


def check_hash(name: str, data: bytes, sha256: str) -> bytes:
    """The same bytes. Raises: UsageError unless they have this hash."""
    compare(name, hashlib.sha256(data).hexdigest(), sha256)
    return data


def compare(name: str, got: str, expected: str) -> None:
    if got != expected:
        raise UsageError(
            f"{name}: sha256 is {got}, expected {expected}: a damaged or another file; nothing was taken of it"
        )


def read_members(archive: Path, hashes: Mapping[str, str]) -> dict[str, bytes]:
    """The members of a .tar.gz, .zip, .whl or .deb that have these names, of those that are in it.

    Args:
        hashes: sha256 of each by its exact name.

    Raises:
        UsageError: the archive cannot be read, or a member has another hash.
    """
    found = {}
    try:
        for name, data in members(archive, hashes):
            found[name] = check_hash(f"{name} of {archive.name}", data, hashes[name])
    except BROKEN as error:
        raise UsageError(f"{archive}: cannot be read as an archive: {error}") from None
    return found


def members(archive: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    with archive.open("rb") as file:
        head = file.read(8)
        file.seek(0)
        if head.startswith(b"PK"):
            yield from of_zip(zipfile.ZipFile(file), set(names))
        elif head == b"!<arch>\n":
            yield from of_tar(io.BytesIO(data_of_deb(file.read())), set(names))
        else:
            yield from of_tar(file, set(names))


def of_zip(archive: zipfile.ZipFile, names: set[str]) -> Iterator[tuple[str, bytes]]:
    for member in archive.infolist():
        if member.filename in names and member.file_size <= MOST_BYTES:
            yield member.filename, archive.read(member)


def of_tar(file: io.IOBase, names: set[str]) -> Iterator[tuple[str, bytes]]:
    """Regular files only: a link could lead to another member."""
    with tarfile.open(fileobj=file) as archive:
        for member in archive:
            if member.name in names and member.isreg() and member.size <= MOST_BYTES:
                content = archive.extractfile(member)
                assert content is not None
                yield member.name, content.read()


def data_of_deb(deb: bytes) -> bytes:
    """The file system of a Debian package: a member `data.tar...` of an `ar` archive (deb(5)).

    Raises:
        ValueError: there is none, or none that Python can unpack.
    """
    place = 8
    while place + 60 <= len(deb):
        name, size = deb[place : place + 16].decode("ascii", "replace").rstrip(" /"), int(deb[place + 48 : place + 58])
        if name.startswith("data.tar"):
            if name.endswith(".zst"):
                raise ValueError("its data are compressed with zstd, which this Python does not know")
            return deb[place + 60 : place + 60 + size]
        place += 60 + size + size % 2
    raise ValueError("there is no data.tar in it")
