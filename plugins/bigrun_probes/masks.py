"""Class masks beside images: which images have one, and the classes of its pixels as the network's crop shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from bigrun.data.files.paths import locate
from bigrun.data.formats.opening import open_regular
from bigrun.errors import DataError, UsageError
from bigrun_probes.config import TABLE
from bigrun_probes.dense import IGNORED

__all__ = ["contiguous", "mask_of", "masked", "read_crop", "require_both_sides"]

OPTION = f"{TABLE}.masks"


def mask_of(folder: Path, name: str) -> Path:
    """Where the mask of an image is: the same relative path, as .png."""
    return folder / PurePosixPath(name).with_suffix(".png")


def masked(folder: Path, names: Sequence[str], order: Sequence[int], count: int) -> list[int]:
    """At most `count` numbers of images that have a mask, in the given order.

    Raises:
        UsageError: there are fewer than two, or no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{OPTION}: {folder}: no such folder; expected one of PNG files beside the images")
    found: list[int] = []
    for number in order:
        try:
            locate(folder, names[number], confined=False)
        except DataError as error:
            raise UsageError(f"{OPTION}: {error}") from None
        if mask_of(folder, names[number]).is_file():
            found.append(number)
            if len(found) == count:
                break
    if len(found) < 2:
        example = mask_of(folder, names[order[0]]) if len(order) else folder
        raise UsageError(
            f"{OPTION}: {folder}: {len(found)} of {len(names):,} images has a mask, expected 2 or more; a mask lies at "
            f"the relative path of its image, as {example}"
        )
    return found


def read_crop(path: Path, size: tuple[int, int], side_px: int) -> Tensor:
    """The classes (side_px, side_px) uint8 of the central square of a mask, by nearest pixels.

    Args:
        size: height and width of its image, which it must share.

    Raises:
        UsageError: it cannot be used, naming the file.
    """
    try:
        with open_regular(str(path)) as file, Image.open(file, formats=["PNG"]) as image:
            if image.size != (size[1], size[0]):
                width, height = image.size
                raise UsageError(
                    f"{OPTION}: {path}: {width} x {height} pixels, but its image has {size[1]} x {size[0]}"
                )
            if image.mode not in ("L", "P"):
                raise UsageError(f"{OPTION}: {path}: expected 8 bits of grey or a palette, got a PNG of {image.mode}")
            pixels: npt.NDArray[np.uint8] = np.asarray(image)
    except (DataError, OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UsageError(f"{OPTION}: {path}: cannot be read: {error}") from None
    square = min(size)
    top, left = ((length - square) // 2 for length in size)
    middle = Image.fromarray(pixels[top : top + square, left : left + square])
    resized = middle.resize((side_px, side_px), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(resized))


def contiguous(crops: Sequence[Tensor], source: str) -> tuple[Tensor, tuple[int, ...]]:
    """Class ids of masks as 0, 1, ... (n, H, W) uint8 with IGNORED, and the ids that they stand for.

    Raises:
        UsageError: there are fewer than two classes.
    """
    pixels = torch.stack(list(crops))
    classes = tuple(number for number in torch.unique(pixels).tolist() if number != IGNORED)
    if len(classes) < 2:
        raise UsageError(f"{source}: the masks show {len(classes)} class, expected 2 or more: {list(classes)}")
    renumbered = torch.full_like(pixels, IGNORED)
    for number, name in enumerate(classes):
        renumbered[pixels == name] = number
    return renumbered, classes


def require_both_sides(pixels: Tensor, is_query: Tensor, files: Sequence[Path]) -> None:
    """Refuse masks of which one side is empty.

    Args:
        pixels: (n, H, W) of `contiguous`; is_query: (n,) bool; files: the masks.

    Raises:
        UsageError: of the images that are asked about, or of the others, no pixel has a class; naming a mask.
    """
    has_class = (pixels != IGNORED).flatten(1).any(1)
    for side, what in ((is_query, "that are asked about"), (~is_query, "of the gallery")):
        if not bool(has_class[side].any()):
            first = files[int(side.nonzero()[0, 0])]
            raise UsageError(
                f"{OPTION}: the masks of all {int(side.sum()):,} images {what} are {IGNORED} (nothing) wherever the "
                f"network looks, as {first}; give more images a mask with classes"
            )
