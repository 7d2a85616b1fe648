"""Images of the data set as the network is shown them, without chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bigrun.data.dataset import Samples
from bigrun.data.tone import Steady
from bigrun.data.views import Views
from bigrun.errors import DataError

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["middle_squares"]


def middle_squares(run: Run, count: int, side_px: int) -> tuple[Tensor, Tensor, list[str]] | None:
    """The largest centred square of images that are evenly spread over the data set, resized.

    Args:
        side_px: cut down to a multiple of the patch.

    Returns:
        (n, C, s, s) in [0, 1], the same normalised as for training, and the images' names: of a file also its folder,
        for slices of two series are called alike. One that cannot be read is left out. None when none is left.
    """
    patch, dataset = run.config.model.patch_size_px, run.dataset
    side = max(side_px // patch, 1) * patch
    count = min(count, len(dataset))
    found = {}
    for index in ((2 * k + 1) * len(dataset) // (2 * count) for k in range(count)):
        try:
            found[index] = dataset[index]
        except DataError:
            continue
    if not found:
        return None
    indices = torch.tensor(list(found))
    samples = Samples.pack(list(found.values()), indices, torch.zeros_like(indices))
    config = run.config
    plain = config.views.undistorted(side)
    views = Views(plain, config.model.in_channels, config.run.seed, tone=Steady(run.views.tone))
    crops = views(samples, torch.device("cpu"), step=1).global_crops[: len(found)]
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (config.views.mean, config.views.std))
    describe = getattr(dataset, "describe", None)
    names = ["/".join(Path(describe(index)).parts[-2:]) if describe else f"image {index}" for index in found]
    return (crops * std + mean).clamp(0, 1), crops, names
