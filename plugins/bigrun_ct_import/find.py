"""The files below a folder that are volumes or parts of one, known by their content."""

from __future__ import annotations

import gzip
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import attrs

from bigrun_ct_import.content import unreadable
from bigrun_ct_import.skips import Skip

__all__ = ["Found", "find", "kind_of"]

HEAD_BYTES = 4096
NIFTI_BYTES = 544  # of the larger header


@attrs.frozen
class Found:
    """A file and what it is: `dicom`, `nifti` or `nrrd`."""

    path: Path
    kind: str
    size: int


def find(source: Path) -> Iterator[Found | Skip]:
    """Every file of a folder and its subfolders in the order of their names, or the one file.

    Links to files are followed, links to folders are not: they may lead round and round.
    """
    if not source.is_dir():
        yield look(source)
        return
    errors: list[OSError] = []
    for folder, subfolders, files in os.walk(source, onerror=errors.append):
        subfolders.sort()
        for name in sorted(subfolders):
            if (Path(folder) / name).is_symlink():
                yield Skip("not-a-file", (str(Path(folder) / name),), "a link to a folder")
        for name in sorted(files):
            yield look(Path(folder) / name)
    for error in errors:
        yield unreadable(str(error.filename), error).skip(str(error.filename))


def look(path: Path) -> Found | Skip:
    """What one file is; a pipe is not opened. Raises: BigrunError, see `unreadable`."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            return Skip("not-a-file", (str(path),))
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        return unreadable(str(path), error).skip(str(path))
    kind = kind_of(head)
    if kind is None:
        return Skip("not-a-volume", (str(path),))
    return Found(path, kind, facts.st_size)


def kind_of(head: bytes) -> str | None:
    """What a file is by its first 4 KiB; None for anything else."""
    if head[128:132] == b"DICM" or is_bare_dicom(head):
        return "dicom"
    if head.startswith(b"NRRD000"):
        return "nrrd"
    if is_nifti(head) or (head.startswith(b"\x1f\x8b") and is_nifti(unpacked(head))):
        return "nifti"
    return None


def is_bare_dicom(head: bytes) -> bool:
    """A data set without the 128 bytes and the mark before it, as old archives hold: it begins with an element of group
    2 or 8 that has a plausible length."""
    if len(head) < 16:
        return False
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", head[:4])
        if group in (2, 8) and element <= 0x1000:
            explicit = head[4:6] in (b"UL", b"UI", b"CS", b"DA", b"TM", b"SH", b"LO", b"OB")
            (length,) = struct.unpack(f"{order}I", head[4:8])
            if explicit or length <= 64:
                return True
    return False


def is_nifti(head: bytes) -> bool:
    """NIfTI-1 or NIfTI-2, in one file or as the header of two."""
    sizes = {order: struct.unpack(f"{order}i", head[:4])[0] for order in "<>"} if len(head) >= 4 else {}
    if 348 in sizes.values():
        return head[344:348] in (b"n+1\0", b"ni1\0")
    return 540 in sizes.values() and head[4:8] in (b"n+2\0", b"ni2\0")


def unpacked(head: bytes) -> bytes:
    """The first bytes of a gzip file, as far as they are whole."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, NIFTI_BYTES)
    except (zlib.error, gzip.BadGzipFile):
        return b""
