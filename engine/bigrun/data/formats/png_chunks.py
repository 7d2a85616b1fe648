"""The chunks that a PNG is made of (ISO/IEC 15948, 5.3)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["png_chunks"]


def png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Name and contents of each, up to the end (`IEND`) or to the first that is not whole. Checksums are not looked
    at."""
    view, place = memoryview(data), 8  # behind the signature
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        begin, place = place + 8, place + 12 + length  # its length, its name, its contents and their checksum
        if place > len(data):
            return
        yield kind, view[begin : begin + length]
        if kind == b"IEND":
            return
