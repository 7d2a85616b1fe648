"""What decoding an image tells, found out by several processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from bigrun.data.check.histogram import Histogram
from bigrun.data.decoder import usable
from bigrun.data.faults import BadImageError
from bigrun.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    from bigrun.data.check.images import Images

__all__ = ["Examined", "Seen", "examine_all"]

PIECE = 64
"""Images that a process decodes at a time."""
DIGEST = 16
"""Bytes of SHA-256 that are kept of each image: a million images have a common one with a probability of 1e-27."""


@attrs.frozen
class Seen:
    """One image."""

    number: int
    dtype: str | None = None
    shape: tuple[int, int, int] | None = None
    """C, H, W"""
    is_constant: bool = False
    """Each channel has one value."""
    digest: bytes = b""
    """Of dtype, shape and pixels."""
    cause: str | None = None
    """One of `bigrun.data.faults.CAUSES` for an image that cannot be used."""
    message: str = ""


@attrs.frozen(eq=False)
class Examined:
    """Some images."""

    seen: list[Seen]
    histograms: dict[tuple[int, str], Histogram]
    """By data set and dtype."""


Piece = tuple[list[int], list[int]]
"""Numbers of images, and the data set of each."""


def examine_all(
    images: Images, numbers: Sequence[int], sets: npt.NDArray[np.int64], workers: int
) -> Iterator[Examined]:
    """Decode images, in the order of `numbers`.

    Args:
        sets: (len(images),) the data set of each image.
        workers: processes; 0: this one.
    """
    from bigrun.parallel import in_order

    starts = range(0, len(numbers), PIECE)
    pieces = ([*map(int, numbers[start : start + PIECE])] for start in starts)
    return in_order(examine, ((some, sets[some].tolist()) for some in pieces), workers, images)


def examine(images: Images, piece: Piece) -> Examined:
    """Decode the images of a piece."""
    numbers, sets = piece
    histograms: dict[tuple[int, str], Histogram] = {}
    return Examined(
        [examine_one(images, number, of, histograms) for number, of in zip(numbers, sets, strict=True)], histograms
    )


def examine_one(images: Images, number: int, of: int, histograms: dict[tuple[int, str], Histogram]) -> Seen:
    try:
        pixels = usable(images, number, images.channels).numpy()
    except BadImageError as error:
        return Seen(number, cause=error.cause, message=error.message)
    except DataError as error:
        return Seen(number, cause="other", message=str(error))
    dtype = str(pixels.dtype)
    histograms.setdefault((of, dtype), Histogram(dtype)).add(pixels)
    shape: Any = tuple(pixels.shape)
    digest = hashlib.sha256(f"{dtype} {shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    flat = pixels.reshape(len(pixels), -1)
    is_constant = bool((flat == flat[:, :1]).all())
    return Seen(number, dtype, shape, is_constant, digest.digest()[:DIGEST])
