"""Real images as the backbone was trained on: of the size of a global crop, normalised as in the run."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from bigrun.data.dataset import require_channels
from bigrun.errors import BigrunError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from bigrun.export.source import Source

__all__ = ["IMAGES", "Crops", "find_crops"]

IMAGES = 4
# Of the scikit-image wheel; public domain or CC0.
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


@attrs.frozen(eq=False)
class Crops:
    """What features are compared on."""

    pixels: Tensor  # (n, C, s, s)
    what: str


def find_crops(source: Source, say: Callable[[str], None]) -> Crops:
    """The first that can be had: images of the run's data set, scikit-image's photographs, smooth noise.

    `say` is told why a way was not gone; `Crops.what` goes to the model card and names no folder.
    """
    ways: list[Callable[[Source], tuple[list[Tensor], str]]] = [of_the_run, photographs]
    for way in ways:
        try:
            images, what = way(source)
            return Crops(crop(images, source), what)
        except BigrunError as error:
            say(f"images       {error}")
    return Crops(crop(noise(source), source), f"{IMAGES} images of noise (no real ones can be read here)")


def of_the_run(source: Source) -> tuple[list[Tensor], str]:
    """Images spread over the run's folder. Raises BigrunError.

    Only of a folder: a plugin that brings images would be code, with options, of whoever has made the checkpoint's
    configuration, and nobody has named it here.
    """
    from bigrun.data.folder import ImageFolder

    if source.data.path is None:
        raise DataError("the run's images are of a plugin, which an export does not start")
    dataset = ImageFolder.search(source.data.path)
    step = max(len(dataset) // IMAGES, 1)
    images = [dataset[index] for index in range(0, len(dataset), step)[:IMAGES]]
    return images, f"{len(images)} images of the run's data set"


def photographs(source: Source) -> tuple[list[Tensor], str]:
    """Raises DataError when scikit-image is not installed."""
    from bigrun.data.folder import ImageFolder

    spec = importlib.util.find_spec("skimage")
    folders = spec.submodule_search_locations if spec else None
    paths = [Path(folders[0]) / "data" / name for name in PHOTOS] if folders else []
    folder = ImageFolder([path for path in paths if path.is_file()])
    if not len(folder):
        raise DataError("scikit-image, which has photographs, is not installed")
    images = [folder[index] for index in range(len(folder))]
    if source.model.in_channels != 3:
        images = [image.float().div(255).mean(0, keepdim=True) for image in images]  # grey is repeated
    return images, f"{len(images)} photographs of scikit-image (the run's data set cannot be read here)"


def noise(source: Source) -> list[Tensor]:
    """Random fields without sharp edges, (C, H, W) in [0, 1]."""
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(IMAGES, source.model.in_channels, 12, 12, generator=generator)
    return list(F.interpolate(coarse, size=(256, 256), mode="bicubic").clamp(0, 1))


def crop(images: list[Tensor], source: Source) -> Tensor:
    """The largest square in the middle of each image, at the size of a global crop: (n, C, s, s)."""
    import torch

    channels = source.model.in_channels
    crops = []
    for number, image in enumerate(images):
        require_channels(image, channels, f"image {number}")
        crops.append(resized_square(image, source.size).expand(channels, -1, -1))
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (source.views.mean, source.views.std))
    return (torch.stack(crops) - mean) / std


def resized_square(image: Tensor, size: int) -> Tensor:
    """(C, H, W) of a data set -> (C, size, size) float32 in [0, 1]."""
    import torch
    import torch.nn.functional as F

    highest = 1.0 if image.dtype.is_floating_point else float(torch.iinfo(image.dtype).max)
    height, width = image.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image.float()[None, :, top : top + side, left : left + side] / highest
    return F.interpolate(square, size=(size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
