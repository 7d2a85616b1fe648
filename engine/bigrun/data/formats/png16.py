"""PNG with 16 bits per sample and more than one sample per pixel, of which Pillow keeps the upper 8 bits."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any, BinaryIO

import numpy.typing as npt
from PIL import Image

from bigrun.data.formats.extra import imagecodecs
from bigrun.data.formats.limits import require_size
from bigrun.data.formats.png_chunks import png_chunks
from bigrun.data.formats.values import on_white, upright

__all__ = ["is_deep", "read_png16"]

# Colour types of the PNG specification (ISO/IEC 15948, 11.2.2) with more than one sample: samples, and of them opacity
DEEP = {2: "RGB", 4: "grey with opacity", 6: "RGB with opacity"}


def is_deep(head: bytes) -> bool:
    """Whether a PNG that begins so has 16 bits per sample, and several samples per pixel."""
    return len(head) > 25 and head[24] == 16 and head[25] in DEEP


def read_png16(path: str, file: BinaryIO, head: bytes) -> npt.NDArray[Any]:
    """(C, H, W) uint16, transparent parts on white.

    Args:
        file: at its start.
        head: its first 26 bytes or more.

    Raises:
        BadImageError: "too-large", or "unsupported" where the extra `formats` is not installed.
        Exception: whatever imagecodecs raises for a damaged file.
    """
    colour = head[25]
    module = imagecodecs(path, f"16 bits per channel ({DEEP[colour]})")
    width, height = struct.unpack(">II", head[16:24])
    require_size(path, height, width, 4)
    data = file.read()
    pixels = module.png_decode(data)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if pixels.shape[0] in (2, 4):  # of colour type 2 as well, where one colour is transparent (tRNS)
        pixels = on_white(pixels, premultiplied=False)
    return upright(pixels, orientation_of(data))


def orientation_of(data: bytes) -> object:
    """That of the chunk eXIf, 1 without it, or where it cannot be read."""
    for kind, held in png_chunks(data):
        if kind == b"eXIf":
            exif = Image.Exif()
            with suppress(Exception):  # Pillow raises anything
                exif.load(bytes(held))
                return exif.get(0x0112, 1)
    return 1
