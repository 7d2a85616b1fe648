"""What PNG files of the tests are made of, by the specification and by nobody's library."""

from __future__ import annotations

import struct
import zlib

__all__ = ["chunk"]


def chunk(kind: bytes, data: bytes) -> bytes:
    """Length, name, contents and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
