"""How good a teacher's features seem, without any labels, on images of the run's own data set."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from bigrun.errors import DataError
from bigrun.evaluation.features import features_of
from bigrun.evaluation.images import FixedImages, evenly_spread
from bigrun.evaluation.part import Part
from bigrun.evaluation.rank import rank_me
from bigrun_gram.candidates import LEARNED

if TYPE_CHECKING:
    from bigrun.model.vit import VisionTransformer
    from bigrun.run import Run

__all__ = ["IMAGES", "dense_score", "fixed_images", "has_learned", "label_free_scores", "patch_cosine", "recorded"]

IMAGES = 256
"""At most so many, evenly spaced over the data set."""


def patch_cosine(patches: Tensor) -> Tensor:
    """Mean cosine between different patches of the same image, (n, P, D) -> (n,) float32."""
    count = patches.shape[1]
    directions = F.normalize(patches.float(), dim=-1)
    everything = directions.sum(1).square().sum(-1)  # the sum over all pairs, the P equal ones included
    return (everything - count) / max(count * (count - 1), 1)


def label_free_scores(run: Run, backbone: VisionTransformer) -> tuple[float, float] | None:
    """(mean patch cosine, RankMe of the class tokens) of a backbone; None if they are not finite.

    The backbone is that of `Objective.evaluation`. Draws nothing at random and records nothing: training is the same
    with it and without.

    Raises:
        DataError: none of the images can be read.
    """
    cosines, tokens, images = [], [], fixed_images(run)
    for _, features in features_of(run, backbone, images):
        cosines.append(patch_cosine(features.patches).cpu())
        tokens.append(features.cls.float().cpu())
    if not tokens:
        scored_on = "the images of the data set that candidates are scored on"
        raise DataError(f"none of {scored_on} can be read{images.elsewhere()}")
    if images.missing:
        run.event(
            "gram-candidate",
            f"{len(images.missing)} of the {len(images.indices)} images that candidates are scored on cannot be "
            f"read{images.elsewhere()}: the scores of this one are of the others",
            "warning",
            missing=len(images.missing),
        )
    together = torch.cat(tokens)  # (n, D)
    cosine = torch.cat(cosines).mean().item()
    if not (math.isfinite(cosine) and together.isfinite().all()):
        return None
    return cosine, rank_me(together)


def has_learned(run: Run) -> bool:
    """Whether the DINO loss of the step being taken is below 0.97 ln K; True where there is none.

    ln K is the loss of a student that says nothing. Read in `before_update`, by all processes, whose mean loss it is;
    waits for the device.
    """
    views, objective = run.config.views, run.config.objective
    loss = run.metrics.agreed(["loss/dino_global"]).get("loss/dino_global")
    if loss is None or "objective" in run.config.replaced or objective.dino_weight == 0:
        return True
    assert objective.prototypes is not None
    share = objective.dino_weight * (views.global_crops - 1) / (views.global_crops - 1 + views.local_crops)
    return loss < LEARNED * share * math.log(objective.prototypes)


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


def recorded(run: Run, metric: str) -> float | None:
    """A metric's value of this step, recorded since its update; None, and an event, where nobody has recorded it."""
    value = run.metrics.pending([metric]).get(metric)
    if value is not None and math.isfinite(value):
        return value
    got = "nobody has recorded it in this step" if value is None else f"it is {value}"
    run.event(
        "gram-candidate",
        f"choose_by = '{metric}': {got}: the best candidate is chosen without labels; whoever records it must do so in "
        "every candidate's step (candidates_every_steps)",
        "warning",
        metric=metric,
    )
    return None


def fixed_images(run: Run) -> FixedImages:
    """The same images for every candidate, of those that are trained on: without `choose_by`, what is kept apart for
    validation does not decide what is trained towards. A metric of `choose_by` is of whatever images its plugin
    measures; those of probes are of the validation part, where there is one."""
    part = Part(run.dataset, run.views.tone, run.views.spacing_mm, is_validation=False)
    return FixedImages(run, evenly_spread(IMAGES, len(run.dataset)), part=part)
