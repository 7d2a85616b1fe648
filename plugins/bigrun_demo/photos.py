"""Real photographs that the scikit-image and scikit-learn wheels carry: nothing is downloaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bigrun.errors import DataError

__all__ = ["PhotoTiles", "load_photos", "photo_paths"]

# Public domain or CC0, but for scikit-learn's two (CC-BY). Drawings, charts and the second picture of a stereo pair
# are left out: a k-NN label must mean one scene.
PHOTOS = {
    "skimage": (
        "data/astronaut.png", "data/brick.png", "data/camera.png", "data/cell.png", "data/chelsea.png",
        "data/clock_motion.png", "data/coffee.png", "data/coins.png", "data/grass.png", "data/gravel.png",
        "data/hubble_deep_field.jpg", "data/ihc.png", "data/moon.png", "data/motorcycle_left.png", "data/page.png",
        "data/retina.jpg", "data/rocket.jpg", "data/text.png",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}  # fmt: skip


def photo_paths() -> list[Path]:
    """The photographs' files, found without importing the packages.

    Raises:
        DataError: a package is not installed.
    """
    paths = []
    for package, files in PHOTOS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise DataError(
                f"the demo photographs are in the package {package}, which is not installed: pip install 'bigrun[demo]'"
            )
        paths += [Path(spec.submodule_search_locations[0]) / file for file in files]
    return [path for path in paths if path.is_file()]


def load_photos() -> dict[str, Tensor]:
    """Name -> (3, H, W) uint8; grey photographs have three equal channels."""
    photos = {}
    for path in photo_paths():
        with Image.open(path) as image:
            photos[path.stem] = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
    return photos


class PhotoTiles:
    """Overlapping square tiles of every photograph, as a data set of decoded images."""

    def __init__(self, photos: dict[str, Tensor], tile_px: int, stride_px: int) -> None:
        self.tile_px = tile_px
        self.photos = photos
        self.places = [
            (name, y, x)
            for name, photo in photos.items()
            for y in starts(photo.shape[1], tile_px, stride_px)
            for x in starts(photo.shape[2], tile_px, stride_px)
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        """(3, tile, tile) uint8; smaller where the photograph is."""
        name, y, x = self.places[index]
        return self.photos[name][:, y : y + self.tile_px, x : x + self.tile_px]


def starts(length: int, tile: int, stride: int) -> list[int]:
    """First pixels of tiles that cover a side from end to end."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, stride), length - tile]
