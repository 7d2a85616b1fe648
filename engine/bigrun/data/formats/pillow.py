"""What Pillow reads without loss."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from bigrun.data.faults import BadImageError
from bigrun.data.formats.limits import require_size
from bigrun.data.formats.png_rows import has_all_rows
from bigrun.data.formats.tiff import NO_PAGE, read_tiff, stack
from bigrun.data.formats.truncation import is_cut_tiff
from bigrun.data.formats.values import unit_floats, upright

__all__ = ["FORMATS", "read_pillow"]

Pixels = npt.NDArray[Any]

# Pillow may use these decoders only: others (EPS) start external programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
ORIENTATION, SUBFILE, BITS, PHOTOMETRIC, SAMPLES, SAMPLE_FORMAT = 0x0112, 254, 258, 262, 277, 339  # EXIF's and TIFF's
INTEGERS, FLOATS = 1, 3  # values of SAMPLE_FORMAT; 2 is signed integers


def read_pillow(path: str, file: BinaryIO, kind: str) -> Pixels:
    """(C, H, W) uint8, uint16 or float32: the first picture of an animation, all pages of a TIFF.

    Args:
        file: at its start.
        kind: one of FORMATS.

    Raises:
        BadImageError: "unsupported" for what cannot be read without loss, and more.
        Exception: whatever Pillow raises for a damaged file.
    """
    try:
        with without_warnings(), Image.open(file, formats=FORMATS) as image:
            if kind != "TIFF":
                pixels = pixels_of(path, image)
                if kind == "PNG" and has_dark_row(image) and not has_all_rows(file):
                    raise BadImageError(path, "truncated", "truncated: its data end before its last row")
                return pixels
            what = describe_tiff(path, image)
            if what is None:
                return read_pages(path, image)
    except (UnidentifiedImageError, SyntaxError):  # the latter of a page that is not the first
        if kind != "TIFF" or is_cut_tiff(file):
            raise
        what = "this kind of TIFF"  # a number of channels, for example, that Pillow has no mode for
    file.seek(0)
    return read_tiff(path, file, what)


@contextmanager
def without_warnings() -> Iterator[None]:
    """A file half as large as the limit at which Pillow raises makes it warn, which is an error as well. What else it
    warns of are metadata that nobody reads here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def read_pages(path: str, image: Image.Image) -> Pixels:
    pages = []
    for number in range(image.n_frames):  # type: ignore[attr-defined]
        image.seek(number)
        if not tag(image, SUBFILE, 0) & NO_PAGE:
            pages.append(pixels_of(path, image))
    return stack(path, pages)


def describe_tiff(path: str, image: Image.Image) -> str | None:
    """What makes it none that Pillow reads without loss; None if it does.

    Raises:
        BadImageError: "unsupported" for samples that no dtype of ours can hold.
    """
    for number in range(image.n_frames):  # type: ignore[attr-defined]
        image.seek(number)
        require_size(path, image.height, image.width, number + 1)
        bits, samples = tag(image, BITS, (1,)), tag(image, SAMPLES, 1)
        form, most = tag(image, SAMPLE_FORMAT, (INTEGERS,))[0], max(bits)
        if form not in (INTEGERS, FLOATS) or most > 16 + 16 * (form == FLOATS):
            stored = {INTEGERS: "unsigned", 2: "signed", FLOATS: "float"}.get(form, "unknown")
            raise BadImageError(
                path,
                "unsupported",
                f"{most}-bit {stored} samples (mode {image.mode}) cannot be read without loss; expected 8 or 16 bits "
                "unsigned or float32 in [0, 1]: convert the file",
            )
        if form == FLOATS and image.tag_v2.prefix == b"MM":  # type: ignore[attr-defined]
            return "floats in big-endian order"  # of compressed ones Pillow (13.0) forgets the order, without a word
        if samples != len(image.getbands()) or (most > 8 and samples > 1) or image.mode == "LAB":
            return f"{samples} channels of {most} bits"
    image.seek(0)
    return None


def tag(image: Image.Image, number: int, default: Any) -> Any:
    return image.tag_v2.get(number, default)  # type: ignore[attr-defined]


def pixels_of(path: str, image: Image.Image) -> Pixels:
    """Of the picture at which the image stands."""
    image.load()  # here, for the search for EXIF data does it as well, and what that raises says nothing
    orientation = orientation_of(image)
    if image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.uint16)[None]
        if image.format == "TIFF" and tag(image, PHOTOMETRIC, 1) == 0:  # Pillow inverts up to 8 bits
            deep = 65535 - deep
        clear = image.info.get("transparency") if image.format == "PNG" else None
        return upright(deep if clear is None else np.where(deep == clear, np.uint16(65535), deep), orientation)
    if image.mode == "F":
        return upright(unit_floats(path, np.array(image, dtype=np.float32)[None]), orientation)
    if image.mode == "I":
        raise BadImageError(
            path, "unsupported", "32-bit integers (mode I) cannot be read without loss; convert the file"
        )
    pixels = np.array(flatten(image))
    return upright(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), orientation)


def has_dark_row(image: Image.Image) -> bool:
    """Whether the last row as stored is all zero, as Pillow leaves a row that the file does not have."""
    return not np.asarray(image.crop((0, image.height - 1, image.width, image.height))).any()


def orientation_of(image: Image.Image) -> object:
    """EXIF's; 1 where the EXIF data cannot be read: every viewer shows such a picture as it is stored."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow raises anything, SyntaxError and struct.error too
        return 1


def flatten(image: Image.Image) -> Image.Image:
    """An image of any 8-bit mode as L or RGB, its transparent parts on white."""
    opaque, layered = ("L", "LA") if image.mode in ("1", "L", "LA", "La") else ("RGB", "RGBA")
    if not image.has_transparency_data:
        return image.convert(opaque)
    image = image.convert(layered)
    canvas = Image.new(opaque, image.size, "white")
    canvas.paste(image.convert(opaque), mask=image.getchannel("A"))
    return canvas
