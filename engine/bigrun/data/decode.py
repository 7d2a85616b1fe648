"""One file of an image, decoded without loss, or what is wrong with it."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from bigrun.data.faults import BadImageError
from bigrun.data.formats.contents import HEAD_BYTES, NAMES, cause_of_foreign, describe_foreign, kind_of
from bigrun.data.formats.grey16 import is_grey16, read_grey16
from bigrun.data.formats.npy import read_npy
from bigrun.data.formats.opening import fault_of_system, is_of_machine, open_regular
from bigrun.data.formats.pillow import read_pillow
from bigrun.data.formats.png16 import is_deep, read_png16
from bigrun.data.formats.truncation import is_cut_short

__all__ = ["read_image"]


def read_image(path: str, channels: int | None = None) -> Tensor:
    """Decode a file of any format, known by its content and not by its name.

    8-bit images of any kind become uint8, grey as 1 channel and the others as RGB, transparent parts white; 16-bit grey
    and 16-bit colour become uint16, floats in [0, 1] float32. The pages of a TIFF and the planes of an array are
    channels. The EXIF orientation is applied; an animation is its first picture.

    Args:
        channels: of the model: tells the axes of a NumPy array.

    Returns:
        (C, H, W) uint8, uint16 or float32.

    Raises:
        BadImageError: with its cause, one of `bigrun.data.faults.CAUSES`. Nothing is read with loss.
        OSError, MemoryError: this process has run out of open files or memory, which is no fault of the file's.
    """
    with open_regular(path) as file:
        pixels = decode(path, file, channels)
    if min(pixels.strides) < 0:  # which torch refuses
        pixels = pixels.copy()
    return torch.from_numpy(pixels).contiguous()  # numpy takes 2.5 times as long to order channels


def decode(path: str, file: BinaryIO, channels: int | None) -> npt.NDArray[Any]:
    kind = "unknown"
    try:
        head = file.read(HEAD_BYTES)
        kind = known_kind(path, head)
        file.seek(0)
        if kind == "NPY":
            return read_npy(path, file, channels)
        if kind == "PNG" and is_deep(head):
            return read_png16(path, file, head)
        if kind == "PNG" and is_grey16(head):
            grey = read_grey16(file)
            if grey is not None:
                return grey
            file.seek(0)
        return read_pillow(path, file, kind)
    except BadImageError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise anything: OSError, SyntaxError, struct.error
        if is_of_machine(error):
            raise
        raise fault_of(path, file, kind, error) from error


def known_kind(path: str, head: bytes) -> str:
    """The format of a file that begins so. Raises BadImageError: "empty", "unsupported" or "not-an-image"."""
    kind = kind_of(head)
    if kind is not None:
        return kind
    if not head:
        raise BadImageError(path, "empty", "empty: it has no bytes")
    foreign = describe_foreign(head)
    raise BadImageError(
        path,
        cause_of_foreign(foreign),
        f"not an image that is read here: {foreign}; expected one of {', '.join(NAMES)}",
    )


def fault_of(path: str, file: BinaryIO, kind: str, error: Exception) -> BadImageError:
    """What the error of a decoder means."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, UnidentifiedImageError):
        said = "its header is not understood"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return BadImageError(path, "too-large", f"{error}; if it is none, cut it into tiles")
    if isinstance(error, OSError) and error.errno is not None:
        return fault_of_system(path, error)
    try:
        cut_short = is_cut_short(file, kind, error)
    except OSError as failed:
        return fault_of_system(path, failed)
    if cut_short:
        return BadImageError(path, "truncated", f"truncated: the {kind} file ends too early ({said})")
    return BadImageError(path, "other", f"damaged, or a kind of {kind} that is not read ({said})")
