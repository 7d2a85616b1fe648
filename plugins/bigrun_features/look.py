"""A look at the networks: the indicators of section 10.4 of docs/explanation/objective.md."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from bigrun.evaluation.rank import rank_me
from bigrun.evaluation.undisturbed import undisturbed
from bigrun.objective.base import Objective
from bigrun.objective.losses import dino_loss, koleo_loss
from bigrun.objective.statistics import class_patch_cosine, class_spread, patch_cosine, prototype_use
from bigrun_features.measured import Measured

if TYPE_CHECKING:
    from bigrun.objective.targets import Targets
    from bigrun.run import Run
    from bigrun_features.kept import KeptImages

__all__ = ["class_indicators", "look", "prototype_indicators", "shows_student"]

AT_ONCE = 32
GROUP = 16
"""Images among which KoLeo looks for a neighbour, as in published runs: among more, there is always a nearer one."""


def shows_student(objective: Objective) -> bool:
    """Whether the student is looked at too: it has prototypes, and is another network than the teacher."""
    return objective.student is not objective.teacher and type(objective).assignments is not Objective.assignments


def look(run: Run, images: KeptImages) -> Measured | None:
    """Show images to the teacher, and to the student where its prototypes are known; None if none can be read.

    Draws nothing at random, and leaves both networks as they were.
    """
    objective, config = run.objective, run.config
    at_once = max(min(config.views.global_crops * (config.data.micro_batch or 1), AT_ONCE), 1)
    student = objective.student.backbone if shows_student(objective) else None
    taught, said, patches, copies = [], [], [], []
    with objective.evaluation() as teacher, contextlib.nullcontext() if student is None else undisturbed(student):
        for shown in images.batches(run.device, at_once):
            with run.strategy.precision():
                features = teacher(shown.crops, spacing_mm=shown.spacing_mm)
                if student is not None:
                    said.append(student(shown.crops, spacing_mm=shown.spacing_mm).cls.float())
            count = len(shown.crops)
            taught.append(features.cls.float())
            patches.append(count * patch_cosine(features.patches, None))
            copies.append(count * class_patch_cosine(features.cls, features.patches, None))
        if not taught:
            return None
        tokens = torch.cat(taught)
        found = class_indicators(tokens)
        found["patch_cosine"] = torch.stack(patches).sum() / len(tokens)
        found["class_patch_cosine"] = torch.stack(copies).sum() / len(tokens)
        with run.strategy.precision():
            targets = objective.assignments(objective.teacher, tokens)
            predictions = objective.assignments(objective.student, torch.cat(said)) if said else None
            found |= {} if targets is None else prototype_indicators(targets, predictions)
    return measured(found, tokens, None if targets is None else len(targets.prototypes))


def measured(found: dict[str, Tensor], tokens: Tensor, prototypes: int | None) -> Measured:
    """Everything on the host, with the rank, which is found there."""
    values = dict(zip(found, torch.stack([value.float() for value in found.values()]).tolist(), strict=True))
    count, width = tokens.shape
    if count > 1:
        rank = rank_me(tokens.cpu()) if tokens.isfinite().all() else math.nan
        values |= {"rank_me": rank, "rank_fraction": rank / min(count, width)}
    return Measured(values, count, width, prototypes)


def class_indicators(tokens: Tensor) -> dict[str, Tensor]:
    """Of class tokens (n, D) of distinct images: `class_spread` and `koleo`, nothing of a single one."""
    count, group = len(tokens), min(GROUP, len(tokens))
    if count < 2:
        return {}
    # Far from each other in the data set: neighbours there may be slices of one volume, and training shuffles them.
    apart = tokens[: count // group * group].view(group, -1, tokens.shape[1]).transpose(0, 1).flatten(0, 1)
    return {"class_spread": class_spread(tokens[None]), "koleo": koleo_loss(apart, group)}


def prototype_indicators(targets: Targets, predictions: Targets | None) -> dict[str, Tensor]:
    """How the teacher's rows (1, n) spread over K prototypes, and what the student says of the same crops.

    `teacher_entropy_fraction` is that of the teacher's own answers, before they are balanced.
    """
    count = len(targets.prototypes)
    if count < 2:
        return {}
    entropy = targets.entropy()
    plain = attrs.evolve(targets, bias=torch.zeros_like(targets.bias))
    found = {
        "target_entropy_fraction": entropy / math.log(count),
        "teacher_entropy_fraction": plain.entropy() / math.log(count),
        **prototype_use([targets]),
    }
    if predictions is not None:
        rows, weights, temperature = predictions.bottlenecks, predictions.prototypes, predictions.temperature
        found["student_entropy_fraction"] = predictions.entropy() / math.log(count)
        found["student_divergence"] = dino_loss(rows, weights, targets, temperature, ignore_diagonal=False) - entropy
    return found
