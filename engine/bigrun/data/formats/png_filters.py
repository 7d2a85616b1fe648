"""The filters of a 16-bit grey PNG (ISO/IEC 15948, 9.2), undone."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["unfilter"]

SUB, UP = 1, 2
"""Less the pixel before; less the pixel above."""
BLOCK = 32
"""Rows. Sums run through all blocks at once, then from block to block: 46 additions for 512 rows, and not 511."""
STORED_BYTES = 65535
"""In a block that is not compressed (RFC 1951, 3.2.4)."""


def unfilter(head: bytes, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16] | None:
    """(H, W) uint16.

    Args:
        head: the file's signature and header.
        rows: (H, 1 + 2W), the filter of each row and its bytes; overwritten.

    Returns:
        None where there is a filter that does not exist.
    """
    filters, values = rows[:, 0], rows[:, 1:]
    if filters[0] in (0, UP) and (filters[1:] == UP).all():
        undo_up(values)
    elif (filters == SUB).all():
        values = undo_sub(values)
    else:
        return undo_any(head, rows)
    return np.ascontiguousarray(values).view(">u2").astype(np.uint16)


def undo_up(rows: npt.NDArray[np.uint8]) -> None:
    """In place: each row (H, 2W) the sum of it and all before, modulo 256."""
    whole = len(rows) // BLOCK * BLOCK
    blocks = rows[:whole].reshape(-1, BLOCK, rows.shape[1])
    for row in range(1, BLOCK):
        blocks[:, row] += blocks[:, row - 1]
    for block in range(1, len(blocks)):
        blocks[block] += blocks[block - 1, -1]
    for row in range(max(whole, 1), len(rows)):
        rows[row] += rows[row - 1]


def undo_sub(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(H, 2W): high and low bytes are summed up along the row, modulo 256."""
    from imagecodecs import delta_decode

    summed: npt.NDArray[np.uint8] = delta_decode(np.ascontiguousarray(rows).reshape(len(rows), -1, 2), axis=1)
    return summed.reshape(rows.shape)


def undo_any(head: bytes, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16] | None:
    """By libpng, which goes from pixel to pixel, from a file whose data are not compressed."""
    from imagecodecs import png_decode

    data = b"".join([b"IDAT\x78\x01", *stored(rows.reshape(-1)), struct.pack(">I", zlib.adler32(rows.data))])
    chunks = [struct.pack(">I", len(data) - 4), data, struct.pack(">I", zlib.crc32(data))]
    try:
        pixels: npt.NDArray[Any] = png_decode(b"".join([head, *chunks, END]))
    except Exception:  # PngError and more
        return None
    return pixels


END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))


def stored(values: npt.NDArray[np.uint8]) -> Iterator[Any]:
    """Blocks of deflate without compression."""
    for start in range(0, len(values), STORED_BYTES):
        part = values[start : start + STORED_BYTES]
        yield struct.pack("<BHH", start + STORED_BYTES >= len(values), len(part), STORED_BYTES ^ len(part))
        yield part.data
