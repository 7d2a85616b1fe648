"""What the crops of an image cost on one CPU core, side by side with torchvision's transforms for the same recipe.

python benchmarks/views.py                           one to two minutes
python benchmarks/views.py --rounds 3 --images 2     ten seconds

Run it with a Python that has torchvision to see the peers; it is no dependency of bigrun.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from reporting import header, positive, table
from torch import Tensor

from bigrun.data.dataset import Samples
from bigrun.data.views import Views
from bigrun.sections import Views as Section
from bigrun_demo.photos import PhotoTiles, load_photos

OURS = "bigrun"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=positive, default=20, help="measured rounds over all rows  [20]")
    parser.add_argument("--images", type=positive, default=8, help="photographs per round  [8]")
    parser.add_argument("--tile-px", type=positive, default=512, help="largest side of a photograph  [512]")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    torch.set_num_threads(1)
    print(header("Views: crops of decoded photographs on one core"), flush=True)
    tiles = PhotoTiles(load_photos(), options.tile_px, options.tile_px)
    chosen = np.linspace(0, len(tiles) - 1, options.images).round().astype(int)
    photos = [tiles[int(i)].contiguous() for i in chosen]
    section = Section()
    crops = options.images * (section.global_crops + section.local_crops)
    print(
        f"work      {options.images} photographs of at most {options.tile_px} x {options.tile_px} pixels, uint8; "
        f"{section.global_crops} x {section.global_size_px} + {section.local_crops} x {section.local_size_px} px each"
    )
    pipelines = {OURS: bigrun_pipeline(section, photos)}
    missing = ""
    try:
        pipelines |= torchvision_pipelines(section, photos)
    except (ImportError, RuntimeError) as error:  # its wheels do not load beside another build of torch
        missing = f"torchvision is not measured ({error}); run this script with a Python in which it can be imported"
    seconds = measure(pipelines, options.rounds)
    print(f"\n{table(TITLES, [row(name, seconds, crops) for name in pipelines])}")
    if missing:
        print(f"\n{missing}")
    return 0


def bigrun_pipeline(section: Section, photos: Sequence[Tensor]) -> Callable[[], object]:
    count = len(photos)
    samples = Samples.pack(photos, torch.arange(count), torch.zeros(count, dtype=torch.int64))
    views, rounds = Views(section, channels=3, seed=0), itertools.count(1)

    def make() -> object:
        samples.epochs.fill_(next(rounds))  # other crops in every round
        return views(samples, torch.device("cpu"), step=1)

    return make


def torchvision_pipelines(section: Section, photos: Sequence[Tensor]) -> dict[str, Callable[[], object]]:
    """Raises: ImportError or RuntimeError when torchvision cannot be imported."""
    version = importlib.import_module("torchvision").__version__
    v2 = importlib.import_module("torchvision.transforms.v2")
    transforms = torchvision_recipe(v2, section)
    pictures = [Image.fromarray(photo.permute(1, 2, 0).numpy()) for photo in photos]

    def of(images: Sequence[Any]) -> Callable[[], object]:
        return lambda: [[transform(image) for transform in transforms] for image in images]

    name = f"torchvision {version.partition('+')[0]} v2"
    return {f"{name}, tensors": of(photos), f"{name}, PIL": of(pictures)}


def torchvision_recipe(v2: Any, section: Section) -> list[Any]:
    """One transform per crop: the same distributions, drawn by torchvision."""
    first, others, local = section.blur_probability
    bicubic = v2.InterpolationMode.BICUBIC
    jitter = v2.ColorJitter(section.brightness, section.contrast, section.saturation, section.hue)

    def crop(size: int, scale: tuple[float, float], blur: float, solarise: float) -> Any:
        return v2.Compose(
            [
                v2.RandomResizedCrop(size, scale, section.aspect_ratio, interpolation=bicubic, antialias=True),
                v2.RandomHorizontalFlip(section.flip_probability),
                v2.RandomApply([jitter], section.colour_probability),
                v2.RandomGrayscale(section.grayscale_probability),
                *([v2.RandomApply([v2.GaussianBlur(9, section.blur_sigma)], blur)] if blur else []),
                *([v2.RandomSolarize(128, solarise)] if solarise else []),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(section.mean, section.std),
            ]
        )

    near, far = (section.global_size_px, section.global_scale), (section.local_size_px, section.local_scale)
    return [
        crop(*near, first, 0.0),
        *(crop(*near, others, section.solarise_probability if k == 1 else 0.0) for k in range(1, section.global_crops)),
        *(crop(*far, local, 0.0) for _ in range(section.local_crops)),
    ]


def measure(pipelines: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each pipeline in each round, in an order that changes with every round."""
    order, shuffle = list(pipelines), random.Random(0)
    torch.manual_seed(0)
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    for turn in range(rounds + 2):
        shuffle.shuffle(order)
        for name in order:
            start = time.process_time()
            pipelines[name]()
            if turn >= 2:  # the first two warm up
                seconds[name].append(time.process_time() - start)
    return seconds


TITLES = ("crops", "crops / s", "ms / crop", "ratio to bigrun", "least", "most")


def row(name: str, seconds: dict[str, list[float]], crops: int) -> list[str]:
    median = statistics.median(seconds[name])
    ratios = [ours / theirs for theirs, ours in zip(seconds[name], seconds[OURS], strict=True)]
    times = [f"{crops / median:.0f}", f"{1e3 * median / crops:.2f}"]
    return [name, *times, *(f"{ratio:.2f}" for ratio in (statistics.median(ratios), min(ratios), max(ratios)))]


if __name__ == "__main__":
    raise SystemExit(main())
