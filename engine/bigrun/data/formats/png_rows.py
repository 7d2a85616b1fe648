"""Whether a PNG has all its rows: Pillow shows those that are missing as zeros, without a word."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from bigrun.data.formats.png_chunks import png_chunks

__all__ = ["has_all_rows"]

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # per pixel, by colour type (ISO/IEC 15948, 11.2.2)
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""Of interlacing (8.2): first row and column, and the distance of rows and columns."""


def has_all_rows(file: BinaryIO) -> bool:
    """Inflate its data and count the bytes: 2.4 ms for a slice of 512 x 512.

    Args:
        file: of a PNG that Pillow has read.

    Raises:
        zlib.error: the data are damaged.
    """
    file.seek(0)
    data = file.read()
    width, height, bits, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    expected: int = sum(
        rows * (1 + -(-columns * bits * SAMPLES[colour] // 8))
        for rows, columns in pass_sizes(width, height, interlaced=bool(interlaced))
    )
    inflater, found = zlib.decompressobj(), 0
    for kind, packed in png_chunks(data):
        if kind == b"IDAT" and not inflater.eof and found <= expected:
            found += len(inflater.decompress(packed, expected + 1 - found))
    return found >= expected


def pass_sizes(width: int, height: int, *, interlaced: bool) -> list[tuple[int, int]]:
    """Rows and columns of each pass; an empty pass has no bytes, not even of filters."""
    if not interlaced:
        return [(height, width)]
    sizes = [(-(-(height - top) // down), -(-(width - left) // right)) for top, left, down, right in PASSES]
    return [(rows, columns) for rows, columns in sizes if rows > 0 and columns > 0]
