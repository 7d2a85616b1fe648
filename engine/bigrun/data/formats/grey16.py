"""PNG with one 16-bit grey sample per pixel, as CT slices are stored: decoded faster than by Pillow."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from bigrun.data.formats.png_chunks import png_chunks

__all__ = ["is_grey16", "read_grey16"]

# Chunks that Pillow and imagecodecs make nothing of, besides the pixels (ISO/IEC 15948, 11.2 and 11.3).
PLAIN = frozenset((b"IHDR", b"IDAT", b"IEND", b"tIME", b"sBIT", b"bKGD"))
# Of IHDR, behind the size: 16 bits, grey; the only compression and filter method that there are; not interlaced.
GREY16 = bytes((16, 0, 0, 0, 0))


def is_grey16(head: bytes) -> bool:
    """Whether a PNG that begins so has 16 bits per pixel, grey and without opacity."""
    return head[24:29] == GREY16


def read_grey16(file: BinaryIO) -> npt.NDArray[np.uint16] | None:
    """(1, H, W) uint16 by imagecodecs, in 0.8 to 0.86 of Pillow's time (benchmarks/RESULTS.md).

    Args:
        file: at its start.

    Returns:
        None where Pillow is to read it, or to say what is wrong: the extra `formats` is not installed, the file is
        damaged, or it holds more than pixels. What both read is the same.
    """
    try:
        from imagecodecs import png_decode
    except ImportError:
        return None
    data = file.read()
    if not is_plain(data):
        return None
    try:
        pixels: npt.NDArray[Any] = png_decode(data)
    except Exception:  # PngError and more; Pillow finds the same damage and names it
        return None
    return pixels[None]


def is_plain(data: bytes) -> bool:
    """Whether it is complete, is of a size that Pillow would read, and has nothing but pixels."""
    width, height = struct.unpack_from(">II", data, 16)
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        return False
    kinds = [kind for kind, _ in png_chunks(data)]
    return kinds[-1:] == [b"IEND"] and PLAIN.issuperset(kinds)
