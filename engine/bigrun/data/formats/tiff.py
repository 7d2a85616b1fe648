"""TIFF that Pillow would read with loss or not at all: 16-bit colour, floats, any number of channels, pages."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from bigrun.data.faults import BadImageError
from bigrun.data.formats.extra import missing_extra, tifffile
from bigrun.data.formats.limits import require_size
from bigrun.data.formats.values import on_white, unit_floats, upright

__all__ = ["NO_PAGE", "read_tiff", "stack"]

Pixels = npt.NDArray[Any]

NO_PAGE = 1 | 4  # bits of NewSubfileType (tag 254): a smaller copy of another page, or its mask
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2  # PhotometricInterpretation (tag 262)
OPACITY = (1, 2)  # ExtraSamples (tag 338): premultiplied or not; 0 is another channel


def read_tiff(path: str, file: BinaryIO, what: str) -> Pixels:
    """(C, H, W) uint8, uint16 or float32 in [0, 1]; the channels of all pages, one behind the other.

    Args:
        file: at its start.
        what: it holds, for the message.

    Raises:
        BadImageError: "unsupported" for other types, colours than grey and RGB, pages that differ, and where the
            extra `formats` is not installed; "truncated"; "too-large".
        Exception: whatever tifffile raises for a damaged file.
    """
    module = tifffile(path, what)
    with module.TiffFile(file) as tiff:
        pages = [page for page in tiff.pages if not page.subfiletype & NO_PAGE]
        for page in pages:
            check_page(path, page, tiff.filehandle.size)
        require_size(path, *(pages[0].shape if pages else ()), len(pages))
        return stack(path, [pixels_of(path, page, what) for page in pages])


def check_page(path: str, page: Any, size: int) -> None:
    dtype = "unknown" if page.dtype is None else page.dtype
    if dtype not in ("uint8", "uint16", "float32"):
        bits = f"{page.bitspersample}-bit samples ({dtype})"
        raise BadImageError(path, "unsupported", f"{bits}; expected 8 or 16 bits unsigned, or float32 in [0, 1]")
    if page.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB) or page.axes not in ("YX", "YXS", "SYX"):
        message = (
            f"a TIFF of colours {page.photometric!r} and axes {page.axes}, expected grey or RGB, one plane or more"
        )
        raise BadImageError(path, "unsupported", message)
    ends = (o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False))
    if max(ends, default=0) > size:
        raise BadImageError(path, "truncated", f"truncated: the file has {size:,} bytes, and its pixels end behind it")


def pixels_of(path: str, page: Any, what: str) -> Pixels:
    try:
        pixels: Pixels = page.asarray()
    except (ImportError, ValueError) as error:
        # tifffile's words for a compression that it cannot undo alone
        if isinstance(error, ImportError) or "imagecodecs" in str(error):
            raise missing_extra(path, what) from error
        raise
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif page.axes == "YXS":
        pixels = pixels.transpose(2, 0, 1)
    if page.photometric == WHITE_IS_ZERO:
        pixels = (np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else np.float32(1)) - pixels
    extra = tuple(page.extrasamples)
    if len(extra) == 1 and extra[0] in OPACITY and pixels.dtype.kind == "u":
        pixels = on_white(pixels, premultiplied=extra[0] == OPACITY[0])
    pixels = unit_floats(path, pixels) if pixels.dtype == np.float32 else pixels
    orientation = page.tags.get(274)
    return upright(pixels, 1 if orientation is None else int(orientation.value))


def stack(path: str, pages: list[Pixels]) -> Pixels:
    """Pages (c, H, W) of one size and type as (P*c, H, W). Raises BadImageError: "unsupported" where they differ."""
    if not pages:
        raise BadImageError(path, "unsupported", "a TIFF without a page that is an image")
    if len({(page.shape, page.dtype) for page in pages}) > 1:
        shapes = ", ".join(f"{page.shape} {page.dtype}" for page in pages[:4])
        message = f"{len(pages)} pages that differ ({shapes}): pages are channels, of one size and type"
        raise BadImageError(path, "unsupported", message)
    return pages[0] if len(pages) == 1 else np.concatenate(pages)
