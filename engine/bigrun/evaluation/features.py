"""Features of images that are shown to a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from bigrun.evaluation.undisturbed import undisturbed

if TYPE_CHECKING:
    from bigrun.evaluation.images import FixedImages, Shown
    from bigrun.model.vit import Features, VisionTransformer
    from bigrun.run import Run

__all__ = ["features_of"]


@torch.no_grad()
def features_of(run: Run, backbone: VisionTransformer, images: FixedImages) -> Iterator[tuple[Shown, Features]]:
    """Shows images to a backbone, undisturbed, in the precision of training.

    Yields batches of b images with their features, which are on the device of the run.
    """
    for shown in images.batches(run.device):
        with undisturbed(backbone), run.strategy.precision():
            features = backbone(shown.crops, spacing_mm=shown.spacing_mm)
        yield shown, features
