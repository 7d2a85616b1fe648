"""NumPy's own files, `.npy` (numpy.lib.format): one array, never pickled objects."""

from __future__ import annotations

import math
import os
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from bigrun.data.faults import BadImageError
from bigrun.data.formats.limits import require_size
from bigrun.data.formats.values import unit_floats

__all__ = ["read_npy"]


def read_npy(path: str, file: BinaryIO, channels: int | None) -> npt.NDArray[Any]:
    """(C, H, W) uint8, uint16 or float32 in [0, 1], of any byte order, in C or Fortran order.

    Args:
        file: at its start.
        channels: of the model; tells (C, H, W) from (H, W, C). Without it, the shorter of first and last axis has the
            channels, and the first of two that are as long.

    Raises:
        BadImageError: "unsupported" for another type or shape, "truncated" for a file that is too short.
    """
    shape, fortran, dtype = read_header(path, file)
    if dtype.newbyteorder("=") not in (np.uint8, np.uint16, np.float32) or dtype.hasobject:
        raise BadImageError(
            path, "unsupported", f"a NumPy array of {dtype}, expected uint8, uint16 or float32 in [0, 1]"
        )
    if len(shape) not in (2, 3) or 0 in shape:
        raise BadImageError(
            path, "unsupported", f"a NumPy array of shape {shape}, expected (H, W), (C, H, W) or (H, W, C)"
        )
    require_size(path, *shape)
    length = math.prod(shape) * dtype.itemsize
    buffer = bytearray(min(length, os.fstat(file.fileno()).st_size))
    if file.readinto(buffer) != length:  # type: ignore[attr-defined]
        raise BadImageError(
            path, "truncated", f"truncated: an array of shape {shape} and {dtype} needs {length:,} bytes"
        )
    pixels = np.frombuffer(buffer, dtype).reshape(shape, order="F" if fortran else "C")
    pixels = channels_first(path, pixels, channels).astype(dtype.newbyteorder("="), copy=False)
    return unit_floats(path, pixels) if pixels.dtype == np.float32 else pixels


def read_header(path: str, file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, whether in Fortran order, and dtype; nothing is evaluated but a literal, and no object is unpickled."""
    version = npy_format.read_magic(file)
    if version == (1, 0):
        return npy_format.read_array_header_1_0(file)
    if version == (2, 0):
        return npy_format.read_array_header_2_0(file)
    raise BadImageError(
        path, "unsupported", f"a NumPy file of version {version}, expected 1.0 or 2.0: an array of numbers"
    )


def channels_first(path: str, pixels: npt.NDArray[Any], channels: int | None) -> npt.NDArray[Any]:
    if pixels.ndim == 2:
        return pixels[None]
    first, last = pixels.shape[0], pixels.shape[-1]
    if channels is None:
        return pixels if first <= last else pixels.transpose(2, 0, 1)
    for wanted in (channels, 1):
        if first == wanted:
            return pixels
        if last == wanted:
            return pixels.transpose(2, 0, 1)
    raise BadImageError(
        path,
        "unsupported",
        f"a NumPy array of shape {pixels.shape}, expected (C, H, W) or (H, W, C) with C = {channels} "
        "(model.in_channels) or 1",
    )
