"""What is measured by benchmarks/data.py: ways from files to tensors."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bigrun.data.dataset import Samples
from bigrun.data.source import data_run, read_source
from bigrun.data.views import Views
from bigrun.sections import Views as Section

__all__ = ["Predecessor", "SampleStream", "pil_as_usual", "two_views"]

BATCH = 32
SLICE_BATCH = 16


class SampleStream:
    """Samples of a CT data set in the order of a training, decoded and packed as a worker does it."""

    def __init__(self, folder: Path, *settings: str) -> None:
        sets = [f"data.effective_batch={BATCH}", *(f"plugins.ct-slices.{setting}" for setting in settings)]
        with data_run(read_source(str(folder), sets, ["ct-slices"])) as run:
            self.dataset: Any = run.dataset
        self.order = self.dataset.order(0, BATCH)
        self.position = 0

    def take(self, count: int) -> Iterator[Samples]:
        """The next `count` samples, in micro-batches of 16."""
        for _ in range(0, count, SLICE_BATCH):
            epochs, indices = self.order.index(self.position + np.arange(SLICE_BATCH))
            images = [self.dataset[index] for index in indices.tolist()]
            self.position += SLICE_BATCH
            yield Samples.pack(images, torch.from_numpy(indices), torch.from_numpy(epochs))

    @property
    def turn_over(self) -> int:
        """Samples until every lane has been through a stack."""
        return int(self.order.lanes * self.order.stack)


class Predecessor:
    """The per-sample pipeline of the script that bigrun replaces, from its description.

    For each sample three 16-bit PNG files are decoded, and two views are windowed, cut, resized (bicubic, 224), flipped
    and normalised on the CPU.
    """

    def __init__(self, dataset: Any) -> None:
        self.files = dataset.files
        self.series = dataset.series
        self.random = np.random.default_rng(0)

    def take(self, count: int) -> Iterator[Tensor]:
        for _ in range(count):
            yield self.sample(int(self.random.integers(len(self.files))))

    def sample(self, centre: int) -> Tensor:
        """(2, 3, 224, 224) fp32."""
        slices = [self.decode(self.files.root / self.files.path(n)) for n in self.series.reach(centre, 1)]
        hu = (torch.from_numpy(np.stack(slices)) - 32768.0) * 0.1
        return torch.stack([self.view(hu) for _ in range(2)])

    def decode(self, path: Path) -> Any:
        with Image.open(path) as image:
            return np.asarray(image).astype(np.float32)

    def view(self, hu: Tensor) -> Tensor:
        level, width = self.random.uniform(-400, 400), self.random.uniform(800, 2000)
        windowed = ((hu - (level - width / 2)) / width).clamp(0, 1)
        area, ratio = self.random.uniform(0.3, 1.0), np.exp(self.random.uniform(np.log(3 / 4), np.log(4 / 3)))
        height, wide = (min(round(float(s)), 512) for s in (512 * np.sqrt(area / ratio), 512 * np.sqrt(area * ratio)))
        top, left = (int(self.random.integers(512 - side + 1)) for side in (height, wide))
        box = windowed[None, :, top : top + height, left : left + wide]
        crop = F.interpolate(box, size=(224, 224), mode="bicubic", antialias=True, align_corners=False)[0]
        if self.random.random() < 0.5:
            crop = crop.flip(-1)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        return (crop - mean[:, None, None]) / std[:, None, None]


def two_views() -> Callable[[Sequence[Samples]], list[Tensor]]:
    """bigrun's two global views (224 px), which are made on the training device: here it is the same core."""
    flat = {"colour_probability": 0.0, "grayscale_probability": 0.0, "solarise_probability": 0.0}
    section = Section(local_crops=0, blur_probability=(0.0, 0.0, 0.0), **flat)
    views, steps = Views(section, channels=3, seed=0), itertools.count(1)
    return lambda taken: [views(samples, torch.device("cpu"), next(steps)).global_crops for samples in taken]


def pil_as_usual() -> tuple[str, Callable[[Path], object]] | None:
    """How users of torchvision decode: Pillow, RGB (lossy for 16 bits), (C, H, W) for a batch; None without it."""
    try:
        version = importlib.import_module("torchvision").__version__
        to_tensor = importlib.import_module("torchvision.transforms.v2.functional").pil_to_tensor
    except (ImportError, RuntimeError):  # its wheels do not load beside another build of torch
        return None

    def load(path: Path) -> object:
        with Image.open(path) as image:
            return to_tensor(image.convert("RGB")).contiguous()

    return f"torchvision {version.partition('+')[0]} + PIL", load
