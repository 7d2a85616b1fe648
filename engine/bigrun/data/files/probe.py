"""The shape that decoding an image would give, from its header where the header says it."""

from __future__ import annotations

import io
import warnings

import attrs
from PIL import Image

from bigrun.data.decode import read_image
from bigrun.data.formats.contents import HEAD_BYTES, kind_of

__all__ = ["Shape", "decoded_shape", "header_shape"]

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
"""Of these the header says enough; a TIFF may hold many pages and any kind of number."""
GREY = ("1", "L", "LA", "La")
COLOUR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
ORIENTATION, TRANSPOSED = 0x0112, (5, 6, 7, 8)


@attrs.frozen
class Shape:
    """Of a decoded image, upright."""

    width: int
    height: int
    channels: int
    dtype: str
    mode: str
    """Pillow's name of the mode in which it is stored; the format where only decoding has told the shape."""


def header_shape(data: bytes) -> Shape | None:
    """The shape of an encoded image; None where only decoding can tell, or tells what is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                mode = image.mode
                is_wide = any(";16" in str(tile[3]) for tile in image.tile)
                # Pillow decodes a PNG without this chunk, to look for it at the end.
                has_exif = image.format != "PNG" or b"eXIf" in data
                if has_exif and image.getexif().get(ORIENTATION) in TRANSPOSED:
                    width, height = height, width
    except Exception:  # a damaged file makes Pillow raise anything; decoding tells what is wrong
        return None
    if mode in GREY and not is_wide:
        return Shape(width, height, 1, "uint8", mode)
    if mode in COLOUR and not is_wide:
        return Shape(width, height, 3, "uint8", mode)
    if mode == "I;16":
        return Shape(width, height, 1, "uint16", mode)
    return None


def decoded_shape(place: str, channels: int | None, data: bytes) -> Shape:
    """The shape of an image in a file, by decoding it. Raises BadImageError.

    Args:
        channels: of the model.
        data: the file's contents, or their beginning.
    """
    image = read_image(place, channels)
    depth, height, width = image.shape
    dtype = str(image.dtype).removeprefix("torch.")
    return Shape(width, height, depth, dtype, kind_of(data[:HEAD_BYTES]) or "")
