"""fashion-mnist: 70,000 small pictures of clothes with labels, out of a package of Debian."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import attrs
import numpy as np
import numpy.typing as npt
from PIL import Image

from bigrun.errors import UsageError
from bigrun_fetch.archives import check_hash, read_members
from bigrun_fetch.packages import download_deb

__all__ = ["FashionMnist"]

INSIDE = "./usr/share/datasets/fashion-mnist"
PARTS = {"train": "train", "t10k": "test"}
TYPE_BYTE = 8


@attrs.frozen
class FashionMnist:
    """PNG files in a folder for each class, beside the four files that they are made of.

    Attributes:
        files: sha256 of each file by its name.
    """

    name: ClassVar[str] = "fashion-mnist"
    summary: ClassVar[str] = "60,000 + 10,000 pictures of clothes, 28 x 28, grey, 10 classes"
    licence: ClassVar[str] = "MIT (Zalando SE)"
    source: ClassVar[str] = "the Debian package dataset-fashion-mnist"
    given: ClassVar[str] = "dataset-fashion-mnist_*.deb, or a folder with the four .gz files"
    images: ClassVar[str] = "train"

    package: str = "dataset-fashion-mnist"
    files: Mapping[str, str] = {
        "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    }

    def make(self, folder: Path, given: Sequence[Path], scratch: Path) -> None:
        """Fill a new folder.

        Raises:
            UsageError: the files cannot be had, or are others.
        """
        if len(given) > 1:
            raise UsageError(f"{self.name}: expected one of {self.given}, got {len(given)}")
        place = given[0] if given else download_deb(self.package, scratch)
        found = self._read_folder(place) if place.is_dir() else self._read_package(place)
        if missing := [name for name in self.files if name not in found]:
            raise UsageError(f"{place}: has no {', '.join(missing)}")
        (folder / "idx").mkdir(parents=True)
        for name, data in found.items():
            (folder / "idx" / name).write_bytes(data)
        for part, called in PARTS.items():
            labels = read_idx(found[f"{part}-labels-idx1-ubyte.gz"])
            write_pictures(folder / called, read_idx(found[f"{part}-images-idx3-ubyte.gz"]), labels)

    def _read_package(self, package: Path) -> dict[str, bytes]:
        found = read_members(package, {f"{INSIDE}/{name}": sha256 for name, sha256 in self.files.items()})
        return {name.rpartition("/")[2]: data for name, data in found.items()}

    def _read_folder(self, folder: Path) -> dict[str, bytes]:
        paths = {name: folder / name for name in self.files if (folder / name).is_file()}
        return {name: check_hash(str(path), path.read_bytes(), self.files[name]) for name, path in paths.items()}


def read_idx(packed: bytes) -> npt.NDArray[np.uint8]:
    """An IDX file of bytes: two zeros, a type, the number of dimensions, their lengths, values.

    Raises:
        UsageError: it is another.
    """
    data = gzip.decompress(packed)
    zeros, kind, dimensions = struct.unpack(">HBB", data[:4])
    if (zeros, kind) != (0, TYPE_BYTE):
        raise UsageError(f"expected an IDX file of bytes, got one that begins with {data[:4]!r}")
    shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def write_pictures(folder: Path, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> None:
    """`LABEL/NUMBER.png` for each of (N, 28, 28), numbered as they are there."""
    for label in range(int(labels.max()) + 1):
        (folder / str(label)).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / str(label) / f"{number:05d}.png", compress_level=1)
