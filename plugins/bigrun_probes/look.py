"""What a network, or the pixels alone, say of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from bigrun.errors import DataError
from bigrun.evaluation.features import features_of
from bigrun_probes.dense import as_patches
from bigrun_probes.retrieval import two_views

if TYPE_CHECKING:
    from bigrun.evaluation.images import FixedImages
    from bigrun.model.vit import VisionTransformer
    from bigrun.run import Run

__all__ = ["Rows", "look", "look_at_patches"]

THUMBNAIL_PX = 32
"""Side of the pictures whose pixels are a baseline: those of 1,024 whole crops would be 600 MB."""


@attrs.frozen(eq=False)
class Rows:
    """Of the n images that could be read, on the CPU."""

    found: Tensor  # (n,) int64, their places among all
    tokens: Tensor  # (n, D) class tokens, or thumbnails
    joined: Tensor  # (n, E) class tokens beside mean patch tokens, each of length 1 (arXiv 2304.07193), or thumbnails
    views: Tensor | None  # (2, n, D) class tokens of two views of each, or thumbnails


def look(run: Run, backbone: VisionTransformer | None, images: FixedImages, *, with_views: bool) -> Rows:
    """Show images to a backbone in eval mode; every one is decoded once, for itself and for its two views. All
    processes do, but for the pixels alone (no backbone), which one process asks about.

    Raises:
        DataError: fewer than two can be read.
    """
    views = two_views(run, images.part, images.side_px) if with_views else None
    device = torch.device("cpu") if backbone is None else run.device
    images = images.alone() if backbone is None else images
    indices: list[int] = []
    plain, pairs = [], []
    for samples in images.samples():
        shown = images.show(samples, device)
        indices += samples.indices.tolist()
        plain.append(tokens_of(run, backbone, shown.crops, shown.spacing_mm))
        if views is not None:
            batch = views(samples, device, step=1)
            two, _ = tokens_of(run, backbone, batch.global_crops, batch.global_spacing_mm)
            pairs.append(two.view(2, len(samples), -1))
    found = places(run, images, indices)
    tokens, joined = (torch.cat(parts) for parts in zip(*plain, strict=True))
    return Rows(found, tokens, joined, torch.cat(pairs, 1) if pairs else None)


def tokens_of(
    run: Run, backbone: VisionTransformer | None, crops: Tensor, spacing_mm: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`tokens` and `joined` of crops (n, C, s, s)."""
    if backbone is None:
        thumbnails = F.adaptive_avg_pool2d(crops, min(THUMBNAIL_PX, crops.shape[-1])).flatten(1)
        return thumbnails, thumbnails
    with run.strategy.precision():
        features = backbone(crops, spacing_mm=spacing_mm)
    cls, mean = features.cls.float(), features.patches.float().mean(1)
    return cls.cpu(), torch.cat([F.normalize(half, dim=1) for half in (cls, mean)], dim=1).cpu()


def look_at_patches(run: Run, backbone: VisionTransformer | None, images: FixedImages) -> tuple[Tensor, Tensor]:
    """(m,) places among all of the images that could be read, and their patches (m, P, D), on the CPU.

    Raises:
        DataError: fewer than two can be read.
    """
    indices, patches = [], []
    if backbone is None:
        images = images.alone()
        for shown in images.batches(torch.device("cpu")):
            channels = [as_patches(channel, run.config.model.patch_size_px) for channel in shown.crops.unbind(1)]
            indices += shown.indices.tolist()
            patches.append(torch.cat(channels, -1))
    else:
        for shown, features in features_of(run, backbone, images):
            indices += shown.indices.tolist()
            patches.append(features.patches.float().cpu())
    return places(run, images, indices), torch.cat(patches)


def places(run: Run, images: FixedImages, indices: list[int]) -> Tensor:
    missing = len(images.indices) - len(indices)
    if len(indices) < 2:
        raise DataError(f"only {len(indices)} of {len(images.indices)} images can be read{images.elsewhere()}")
    if missing:
        message = (
            f"probes: {missing:,} of {len(images.indices):,} images cannot be read{images.elsewhere()}: the values are "
            "of the others"
        )
        run.event("probes-incomplete", message, "warning", missing=missing)
    where = {index: place for place, index in enumerate(images.indices)}
    return torch.tensor([where[index] for index in indices])
