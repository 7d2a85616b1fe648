"""What tells the ways of not learning apart, computed from tensors that the step has anyway [spec 10.2]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from bigrun.objective.targets import Targets, parts, rows_at_once

if TYPE_CHECKING:
    from bigrun.model.vit import Features

__all__ = ["class_patch_cosine", "class_spread", "feature_statistics", "patch_cosine", "prototype_use"]

NOTHING = 1e-8
"""Added to features: those that are exactly zero have a direction then, and are alike."""


def feature_statistics(student: Features, masks: Tensor | None, teacher_classes: Tensor) -> dict[str, Tensor]:
    """How much features differ: values of shape () of the student's global crops and of class tokens (G, b, D) of the
    teacher; nothing of the latter for a single image."""
    found = {
        "patch_cosine": patch_cosine(student.patches, masks),
        "class_patch_cosine": class_patch_cosine(student.cls, student.patches, masks),
    }
    return found if teacher_classes.shape[1] < 2 else found | {"class_spread": class_spread(teacher_classes)}


def prototype_use(window: Sequence[Targets], group: dist.ProcessGroup | None = None) -> dict[str, Tensor]:
    """How the class tokens of a whole step, n rows, spread over the K prototypes; values of shape ().

    `group`: processes that have as many rows of the step each; they send each other 2 K numbers in fp32.

    `marginal_entropy_fraction`: entropy of the mean target over ln K, 1 when all prototypes have equal shares.
    `prototypes_used_fraction`: prototypes that are some row's largest, over min(K, n).
    """
    first = window[0]
    count = len(first.prototypes)
    shares, used, rows = first.bias.new_zeros(count), first.bias.new_zeros(count), 0
    for targets in window:
        crops, images, _ = targets.bottlenecks.shape
        rows += crops * images
        for part in parts(0, images, rows_at_once(crops * count, shares.device)):
            found = targets.rows(part).flatten(0, 1)  # (m, K)
            shares += found.sum(0)
            used[found.argmax(1)] = 1
    if group is not None:
        both = torch.stack([shares, used])
        dist.all_reduce(both, group=group)
        (shares, used), rows = both, rows * dist.get_world_size(group)
    return {
        "marginal_entropy_fraction": torch.special.entr(shares / max(rows, 1)).sum() / math.log(count),
        "prototypes_used_fraction": used.count_nonzero() / max(min(count, rows), 1),
    }


def class_spread(tokens: Tensor) -> Tensor:
    """sqrt(1 - mean cosine between class tokens of different images), shape (): 0 when all are alike, 1 when their
    directions are independent. The standard deviation of a normalised token's dimensions, times sqrt(D), is the same.

    Args:
        tokens: (G, b, D) with b of at least 2; crops of one image are not compared with each other.
    """
    cosines = mean_cosine(tokens, torch.ones_like(tokens[..., 0]))
    return (1 - cosines.mean()).clamp(min=0).sqrt()


def patch_cosine(patches: Tensor, masks: Tensor | None) -> Tensor:
    """Mean cosine between different patches of the same crop, shape ().

    Args:
        patches: (N, P, D).
        masks: (N, P) bool; those patches were hidden and do not count.
    """
    return mean_cosine(patches, visible(patches, masks)).mean()


def class_patch_cosine(tokens: Tensor, patches: Tensor, masks: Tensor | None) -> Tensor:
    """Mean cosine between the class token (N, D) of a crop and its patches (N, P, D) that were not hidden, shape ()."""
    weights = visible(patches, masks)
    cosines = F.cosine_similarity(tokens[:, None].float() + NOTHING, patches.float() + NOTHING, dim=-1)
    return (cosines * weights).sum() / weights.sum().clamp(min=1)


def visible(patches: Tensor, masks: Tensor | None) -> Tensor:
    """1 for a patch that was seen and 0 for one that was hidden: (N, P) float32."""
    return torch.ones(patches.shape[:2], device=patches.device) if masks is None else (~masks).float()


def mean_cosine(rows: Tensor, weights: Tensor) -> Tensor:
    """Over all pairs of different rows of weight 1, of (N, n, D) and (N, n): (N,) float32.

    The sum over all pairs, equal ones included, is the squared length of the sum of the directions.
    """
    directions = F.normalize(rows.float() + NOTHING, dim=-1) * weights[..., None]
    counts = weights.sum(1)
    return (directions.sum(1).square().sum(-1) - counts) / (counts * (counts - 1)).clamp(min=1)
