"""How good a teacher's features seem, without any labels, on images of the run's own data set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from bigrun.data.dataset import Samples
from bigrun.data.tone import Steady
from bigrun.data.views import Views
from bigrun.errors import DataError
from bigrun_gram.candidates import LEARNED

if TYPE_CHECKING:
    from bigrun.model.vit import VisionTransformer
    from bigrun.run import Run

__all__ = ["IMAGES", "dense_score", "fixed_images", "has_learned", "label_free_scores", "patch_cosine", "rank_me"]

IMAGES = 256
"""At most so many, evenly spaced over the data set."""


def patch_cosine(patches: Tensor) -> Tensor:
    """Mean cosine between different patches of the same image, (n, P, D) -> (n,) float32."""
    count = patches.shape[1]
    directions = F.normalize(patches.float(), dim=-1)
    everything = directions.sum(1).square().sum(-1)  # the sum over all pairs, the P equal ones included
    return (everything - count) / max(count * (count - 1), 1)


def rank_me(tokens: Tensor) -> float:
    """Effective rank of features (n, D): exp of the entropy of their singular values (arXiv 2210.02885, eq. 1).

    Of features of length 1, uncentred: constant features with a little noise would have full rank otherwise.
    """
    sigma = torch.linalg.svdvals(F.normalize(tokens.double(), dim=-1))
    return math.exp(torch.special.entr(sigma / sigma.sum() + 1e-7).sum())


def label_free_scores(run: Run, backbone: VisionTransformer) -> tuple[float, float] | None:
    """(mean patch cosine, RankMe of the class tokens) of a backbone; None if they are not finite.

    The backbone is that of `Objective.evaluation`. Draws nothing at random and records nothing: training is the same
    with it and without.
    """
    cosines, tokens = [], []
    for crops in fixed_images(run):
        with run.strategy.precision():
            features = backbone(crops)
        cosines.append(patch_cosine(features.patches).cpu())
        tokens.append(features.cls.float().cpu())
    together = torch.cat(tokens)  # (n, D)
    cosine = torch.cat(cosines).mean().item()
    if not (math.isfinite(cosine) and together.isfinite().all()):
        return None
    return cosine, rank_me(together)


def has_learned(run: Run) -> bool:
    """Whether the DINO loss of the step being taken is below 0.97 ln K on every process; True where there is none.

    ln K is the loss of a student that says nothing. Read in `before_update`; waits for the device.
    """
    views, objective = run.config.views, run.config.objective
    loss = run.metrics.pending().get("loss/dino_global")
    if loss is None or "objective" in run.config.replaced or objective.dino_weight == 0:
        return True
    assert objective.prototypes is not None
    share = objective.dino_weight * (views.global_crops - 1) / (views.global_crops - 1 + views.local_crops)
    learned = torch.tensor(loss < LEARNED * share * math.log(objective.prototypes), device=run.device)
    return run.strategy.agree([learned], stop=False, failed=0).healthy


def dense_score(run: Run, backbone: VisionTransformer) -> float | None:
    """What the first plugin that answers `dense_score` says, or None.

    Raises:
        TypeError: the answer is not a finite number.
    """
    score = run.plugins.manager.hook.dense_score(run=run, backbone=backbone)
    if score is None:
        return None
    if not isinstance(score, int | float) or not math.isfinite(score):
        raise TypeError(f"the hook dense_score was answered with {score!r}, expected a finite number or None")
    return float(score)


def fixed_images(run: Run) -> Iterator[Tensor]:
    """The same images for every candidate: the central square of each at the (first) size of the global crops,
    normalised, (b, C, s, s) on the run's device. One that cannot be read is left out.

    Raises:
        DataError: none can be read.
    """
    config, dataset = run.config, run.dataset
    plain = config.views.undistorted(config.views.pairs[0][0])
    views = Views(plain, config.model.in_channels, config.run.seed, tone=Steady(run.views.tone))
    count = min(IMAGES, len(dataset))
    wanted = [i * len(dataset) // count for i in range(count)]
    size, found = min(config.data.micro_batch or 1, 32), 0
    for part in (wanted[i : i + size] for i in range(0, count, size)):
        images = {index: image for index in part if (image := readable(run, index)) is not None}
        if images:
            found += len(images)
            indices = torch.tensor(list(images))
            samples = Samples.pack(list(images.values()), indices, torch.zeros_like(indices))
            yield views(samples, run.device, step=1).global_crops[: len(images)]
    if not found:
        raise DataError(f"none of {count} images of the data set can be read")


def readable(run: Run, index: int) -> Tensor | None:
    try:
        return run.dataset[index]
    except DataError:
        return None
