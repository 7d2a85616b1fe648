"""What is learned from and what is asked, as files that any library reads: a folder of PNG images, and probe images.

`photos`: patches of 20 photographs. All training images are from the left halves. Which photograph is a patch of a
right half from? Its neighbours are sought among patches of the left halves.

`fashion`: Fashion-MNIST. Training images are the first of the training part, without labels; the gallery is its first
5,000, the queries are the first 2,000 of the test part.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from fashion import cache_folder, find_fashion
from PIL import Image
from probes import Labels
from torch import Tensor

from bigrun_demo.photos import load_photos

__all__ = ["DATA", "LearningData", "prepare"]

FORMAT = "1"  # of the cache: a new number when anything below changes what is written


@attrs.frozen
class LearningData:
    """Paths, and how the probe's images are labelled."""

    folder: Path
    probe: Path
    labels: Labels

    def probe_pixels(self) -> npt.NDArray[np.float32]:
        """The probe's pixels as rows (n, C*s*s) in [0, 1], the baseline of every score; grey images have C = 1."""
        with np.load(self.probe) as probe:
            pixels = probe["images"].astype(np.float32) / 255  # (n, 3, s, s)
        grey = bool((pixels == pixels[:, :1]).all())
        rows: npt.NDArray[np.float32] = (pixels[:, :1] if grey else pixels).reshape(len(pixels), -1)
        return rows


@attrs.frozen
class Source:
    """How many images there are to be."""

    size_px: int  # side of the probe's images, which is that of the global crops
    training: int
    gallery: int
    queries: int


DATA = {"photos": Source(64, 20 * 48, 20 * 32, 20 * 32), "fashion": Source(32, 20_000, 5_000, 2_000)}
QUICK = {"photos": Source(64, 20 * 4, 20 * 4, 20 * 4), "fashion": Source(32, 200, 200, 100)}
TILE_PX, PATCH_PX = 160, 96


def prepare(name: str, *, quick: bool = False, fashion_folder: Path | None = None) -> LearningData:
    """Make the files, or find them in the cache."""
    source = (QUICK if quick else DATA)[name]
    place = cache_folder() / "learning" / f"{name}-{FORMAT}-{source.training}-{source.gallery}-{source.queries}"
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=place.parent))
        write(scratch, source, photos(source) if name == "photos" else fashion(source, fashion_folder))
        try:
            scratch.rename(place)
        except OSError:  # somebody else has made it meanwhile
            shutil.rmtree(scratch)
    with np.load(place / "probe.npz") as probe:
        labels = Labels(source.gallery, probe["labels"].astype(np.int64))
    return LearningData(place / "images", place / "probe.npz", labels)


def write(place: Path, source: Source, parts: tuple[Iterator[Any], Tensor, Any]) -> None:
    training, probe, labels = parts
    (place / "images").mkdir()
    for number, image in enumerate(training):
        Image.fromarray(image).convert("RGB").save(place / "images" / f"{number:05}.png")
    crops = F.interpolate(probe, (source.size_px, source.size_px), mode="bicubic", antialias=True).clamp(0, 255)
    np.savez(place / "probe.npz", images=crops.round().to(torch.uint8).numpy(), labels=np.asarray(labels))


def fashion(source: Source, folder: Path | None) -> tuple[Iterator[Any], Tensor, Any]:
    data = find_fashion(folder)
    probe = np.concatenate([data.images("train", source.gallery), data.images("t10k", source.queries)])
    labels = np.concatenate([data.labels("train", source.gallery), data.labels("t10k", source.queries)])
    crops = torch.from_numpy(probe.astype(np.float32))[:, None].expand(-1, 3, -1, -1)
    return iter(data.images("train", source.training)), crops, labels


def photos(source: Source) -> tuple[Iterator[Any], Tensor, Any]:
    """The same number of patches of every photograph, so that a blind guess is right in 1 of 20."""
    halves = [(p[:, :, : p.shape[2] // 2], p[:, :, p.shape[2] // 2 :]) for p in load_photos().values()]
    count = len(halves)
    tiles = [tile for left, _ in halves for tile in spread_tiles(left, TILE_PX, source.training // count)]
    gallery = [patch for left, _ in halves for patch in spread_tiles(left, PATCH_PX, source.gallery // count)]
    queries = [patch for _, right in halves for patch in spread_tiles(right, PATCH_PX, source.queries // count)]
    labels = np.concatenate([np.repeat(np.arange(count), n // count) for n in (source.gallery, source.queries)])
    return (tile.permute(1, 2, 0).numpy() for tile in tiles), torch.stack(gallery + queries).float(), labels


def spread_tiles(image: Tensor, side: int, count: int) -> list[Tensor]:
    """`count` squares (3, side, side) of an image (3, H, W) on a grid from edge to edge; they overlap in small ones."""
    height, width = image.shape[1:]
    divisors = [c for c in range(1, count + 1) if count % c == 0]
    columns = min(divisors, key=lambda c: abs(math.log(c * c / count) - math.log(width / height)))
    rows = count // columns
    tops, lefts = (
        np.linspace(0, length - side, number).round().astype(int)
        for length, number in ((height, rows), (width, columns))
    )
    return [image[:, y : y + side, x : x + side] for y in tops for x in lefts]
