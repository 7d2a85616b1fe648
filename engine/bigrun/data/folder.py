"""A folder of images as a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from bigrun.errors import DataError, NoImagesError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["ImageFolder"]

# Pillow may use these decoders only: others (EPS) start external programs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")


class ImageFolder:
    """Images in files: BMP, GIF, JPEG, PNG, TIFF and WebP, known by their content and not by their name.

    8-bit images of any kind become uint8, grey as 1 channel and the others as RGB, transparent parts white;
    16-bit grey becomes uint16; float grey with values in [0, 1] float32. What Pillow cannot read without loss
    (16-bit colour, 32-bit integers) is refused. The EXIF orientation is applied; an animation is its first frame.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        """The files in this order."""
        self.paths = [os.fspath(path) for path in paths]
        self.others: list[str] = []
        """Files that `search` has left alone because their contents are no image it reads."""

    @classmethod
    def search(cls, root: str | Path) -> ImageFolder:
        """All image files below `root`, sorted by path.

        The first bytes of every file are read and nothing is decoded: 100,000 files take about 2 s. Symbolic links
        are followed, and a folder that is reached twice is searched once.

        Raises:
            NoImagesError: there is no such folder, or it holds no image.
            DataError: a folder or a file cannot be read.
        """
        if not Path(root).is_dir():
            raise NoImagesError(f"{root}: no such folder; expected a folder of images - check data.path")
        try:
            files = list(regular_files(os.fspath(root)))
            images = sorted(path for path in files if is_image(path))
        except OSError as error:
            raise DataError(
                f"{error.filename}: cannot be read while searching for images ({error.strerror}); "
                "change its permissions or move it out of data.path"
            ) from error
        if not images:
            raise NoImagesError(
                f"{root}: no images among {len(files)} files; expected {', '.join(FORMATS)} files, "
                "in subfolders too - check data.path"
            )
        folder = cls(images)
        folder.others = sorted(set(files) - set(images))
        return folder

    def summary(self) -> str:
        """How many images there are, and how many other files beside them."""
        names = ", ".join(Path(path).name for path in self.others[:3]) + (", ..." if len(self.others) > 3 else "")
        others = f"; {len(self.others):,} other files are left alone ({names})" if self.others else ""
        return f"{len(self):,} files{others}"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Tensor:
        """Decode one image: (C, H, W) uint8, uint16 or float32. Raises DataError naming the file."""
        path = self.paths[index]
        if not Path(path).is_file():
            raise DataError(f"{path}: not a file any more; do not change the data set during a run")
        try:
            pixels = decode(path)
        except DataError:
            raise
        except Exception as error:  # a damaged file makes Pillow raise anything: OSError, SyntaxError, struct.error
            cause = f"{type(error).__name__}: {error}"
            raise DataError(
                f"{path}: not a readable image ({cause}); repair it, or put another image in its place"
            ) from error
        return torch.from_numpy(np.ascontiguousarray(pixels))

    def describe(self, index: int) -> str:
        """The file's path."""
        return self.paths[index]


def regular_files(root: str) -> Iterator[str]:
    """Every regular file below root; pipes, sockets and devices are left alone."""
    waiting, seen = [root], set()
    while waiting:
        folder = waiting.pop()
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name, reverse=True)
        waiting += [entry.path for entry in entries if entry.is_dir()]
        yield from (entry.path for entry in entries if entry.is_file())


def is_image(path: str) -> bool:
    """Whether the first bytes are those of one of FORMATS."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - pathlib costs 8 us more per file
        head = file.read(16)
    return head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")) or (
        (head.startswith(b"RIFF") and head[8:12] == b"WEBP") or (head.startswith(b"BM") and head[6:10] == bytes(4))
    )


def decode(path: str) -> npt.NDArray[np.generic]:
    """(C, H, W) uint8, uint16 or float32."""
    with Image.open(path, formats=FORMATS) as image:
        wide_samples = any(";16" in str(tile[3]) for tile in image.tile)
        if image.mode == "I" or (wide_samples and not image.mode.startswith("I;16")):
            stored = "16 bits per colour or signed" if wide_samples else "32-bit integers"
            raise DataError(
                f"{path}: {stored} (mode {image.mode}) cannot be read without loss; expected 8-bit images, "
                "16-bit unsigned grey or float grey in [0, 1] - convert the file"
            )
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16"):
            return np.asarray(image).astype(np.uint16)[None]
        if image.mode == "F":
            return unit_floats(path, np.array(image, dtype=np.float32))[None]
        pixels = np.array(flatten(image))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def unit_floats(path: str, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    low, high = pixels.min(), pixels.max()
    if not 0 <= low <= high <= 1:
        raise DataError(f"{path}: float image with values from {low:g} to {high:g}, expected [0, 1] - rescale the file")
    return pixels


def flatten(image: Image.Image) -> Image.Image:
    """An image of any 8-bit mode as L or RGB, its transparent parts on white."""
    opaque, layered = ("L", "LA") if image.mode in ("1", "L", "LA", "La") else ("RGB", "RGBA")
    if not image.has_transparency_data:
        return image.convert(opaque)
    image = image.convert(layered)
    canvas = Image.new(opaque, image.size, "white")
    canvas.paste(image.convert(opaque), mask=image.getchannel("A"))
    return canvas
