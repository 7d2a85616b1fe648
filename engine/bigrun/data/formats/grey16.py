"""PNG with one 16-bit grey sample per pixel, as CT slices are stored: decoded faster than by Pillow."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from bigrun.data.formats.png_chunks import png_chunks
from bigrun.data.formats.png_filters import unfilter
from bigrun.data.formats.png_inflate import inflate_grey16

__all__ = ["is_grey16", "read_grey16"]

# Chunks that Pillow and imagecodecs make nothing of, besides the pixels (ISO/IEC 15948, 11.2 and 11.3).
PLAIN = frozenset((b"IHDR", b"IDAT", b"IEND", b"tIME", b"sBIT", b"bKGD"))
HEAD_BYTES = 33  # signature and IHDR
# Of IHDR, behind the size: 16 bits, grey; the only compression and filter method that there are; not interlaced.
GREY16 = bytes((16, 0, 0, 0, 0))


def is_grey16(head: bytes) -> bool:
    """Whether a PNG that begins so has 16 bits per pixel, grey and without opacity."""
    return head[24:29] == GREY16


def read_grey16(file: BinaryIO) -> npt.NDArray[np.uint16] | None:
    """(1, H, W) uint16 by imagecodecs: in half of Pillow's time where all rows have one filter (benchmarks/png.py).

    Args:
        file: at its start.

    Returns:
        None where Pillow is to read it, or to say what is wrong: the extra `formats` is not installed, the file is
        damaged, or it holds more than pixels. What both read is the same.
    """
    try:
        import imagecodecs  # noqa: F401 - for what is called below
    except ImportError:
        return None
    data = file.read()
    chunks = list(png_chunks(data))
    if not is_plain(data, [kind for kind, _ in chunks]):
        return None
    rows = inflate_grey16(data, chunks)
    pixels = None if rows is None else unfilter(data[:HEAD_BYTES], rows)
    return None if pixels is None else pixels[None]


def is_plain(data: bytes, kinds: Sequence[bytes]) -> bool:
    """Whether a file of these chunks is complete, is of a size that Pillow would read, and has nothing but pixels."""
    width, height = struct.unpack_from(">II", data, 16)
    if not 0 < width * height <= (Image.MAX_IMAGE_PIXELS or math.inf):
        return False
    is_in_order = kinds[:1] == [b"IHDR"] and kinds.count(b"IHDR") == 1 and kinds[-1:] == [b"IEND"]
    pieces = [place for place, kind in enumerate(kinds) if kind == b"IDAT"]
    are_together = bool(pieces) and pieces[-1] - pieces[0] + 1 == len(pieces)
    return is_in_order and are_together and PLAIN.issuperset(kinds)
