"""Whether a file that cannot be decoded is one that was cut short."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

__all__ = ["is_cut_short", "is_cut_tiff"]

# What decoders say of a file that ends too early.
WORDS = (
    "truncated",
    "unexpected end",
    "premature end",
    "not enough data",
    "failed to read",
    "missing dimensions",
    "eof",
)
TAIL_BYTES = 64  # some programs write a few bytes behind the end
ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "GIF": b";"}
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # TIFF 6.0, section 2


def is_cut_short(file: BinaryIO, kind: str, error: BaseException) -> bool:
    """By what the decoder said, or by what the end of the file lacks.

    Args:
        kind: its format, by its first bytes.
        error: what decoding it raised.
    """
    if isinstance(error, EOFError) or any(word in str(error).lower() for word in WORDS):
        return True
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(16)
    if kind in ENDS:
        file.seek(max(0, size - TAIL_BYTES))
        return ENDS[kind] not in file.read()
    if kind == "TIFF":
        return is_cut_tiff(file)
    if len(head) < 10:
        return True
    if kind == "WEBP":
        return int(struct.unpack("<I", head[4:8])[0]) + 8 > size
    return kind == "BMP" and int(struct.unpack("<I", head[2:6])[0]) > size


def is_cut_tiff(file: BinaryIO) -> bool:
    """Whether the directory of a TIFF's first page, or a value of it, lies behind the end of the file."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(8)
    order = "<" if head[:2] == b"II" else ">"
    if head[2:4] not in (b"*\0", b"\0*"):  # BigTIFF
        return False
    try:
        (offset,) = struct.unpack(f"{order}I", head[4:8])
        file.seek(offset)
        (count,) = struct.unpack(f"{order}H", file.read(2))
        entries = [struct.unpack(f"{order}HHII", file.read(12)) for _ in range(count)]
    except struct.error:  # fewer bytes than asked for
        return True
    return any(
        value + count * TYPE_BYTES.get(kind, 1) > size
        for _, kind, count, value in entries
        if count * TYPE_BYTES.get(kind, 1) > 4  # a shorter one stands in the directory itself
    )
