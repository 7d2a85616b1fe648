"""Patch features as colours: principal components that stay the same from one look to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

if TYPE_CHECKING:
    from bigrun_pictures.gather import Look

__all__ = ["Painted", "as_colours", "painted", "principal_scores", "rotation_to"]

SMALLEST = 1e-9


@attrs.frozen(eq=False)
class Painted:
    """The colours of a look; those of all its images together, so that they mean the same in each."""

    colours: dict[int, Tensor]  # by position of the sample: (blocks, Hp, Wp, 3) in [0, 1]
    scores: dict[int, Tensor]  # (blocks, P, 3) fp32: what a later look is aligned to
    explained: list[float]
    """By block, the fraction of the features' variance that is seen."""


def painted(look: Look, before: Mapping[int, Tensor]) -> Painted:
    """
    Args:
        before: scores of an earlier look, by position; of these or of some or none of them.
    """
    positions = [sample.position for sample in look.samples]
    patches, count = look.grid[0] * look.grid[1], len(look.blocks)
    known = {p: before[p] for p in positions if p in before and before[p].shape == (count, patches, 3)}
    scores, explained = torch.empty(count, len(positions), patches, 3), [0.0] * count
    for block in reversed(range(count)):
        together, explained[block] = principal_scores(torch.cat([sample.patches[block] for sample in look.samples]))
        here = together.view(-1, patches, 3)
        if known:
            rows = [n for n, position in enumerate(positions) if position in known]
            here = here @ rotation_to(here[rows], torch.stack([old[block] for old in known.values()]))
        elif block < count - 1:  # of the first look: the same colours through the network
            here = here @ rotation_to(here, scores[-1])
        scores[block] = here
    shades = torch.stack([as_colours(each.flatten(0, 1)).view(-1, *look.grid, 3) for each in scores])
    return Painted(
        {position: shades[:, n] for n, position in enumerate(positions)},
        {position: scores[:, n] for n, position in enumerate(positions)},
        explained,
    )


def principal_scores(features: Tensor) -> tuple[Tensor, float]:
    """The first three principal components of rows (N, D), each of variance 1: (N, 3) fp32, and the fraction of the
    variance that they have together. Where there are fewer, the others are 0."""
    centred = features.double() - features.double().mean(0)
    total = float(centred.square().sum())
    is_tall = centred.shape[0] > centred.shape[1]
    values, vectors = torch.linalg.eigh(centred.mT @ centred if is_tall else centred @ centred.mT)
    values, vectors = values.flip(0)[:3].clamp(min=0), vectors.flip(1)[:, :3]
    directions = vectors if is_tall else centred.mT @ vectors  # (D, 3)
    # A direction and its opposite are the same component: the largest coefficient is positive.
    scores = centred @ (directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign())
    spread = scores.square().mean(0).sqrt()
    scores = torch.where(spread > SMALLEST, scores / spread.clamp(min=SMALLEST), 0.0)
    missing = scores.new_zeros(len(scores), 3 - scores.shape[1])
    explained = float(values.sum()) / total if total > SMALLEST**2 else 0.0
    return torch.cat([scores, missing], dim=1).float(), explained


def rotation_to(scores: Tensor, before: Tensor) -> Tensor:
    """The rotation or reflection (3, 3) that brings scores (..., 3) as near as can be to those of the same patches
    before (orthogonal Procrustes problem; P. Schönemann, Psychometrika 31, 1966).

    Signs, order and every other rotation of the components are then those of before, so that a colour that changes is a
    feature that does. It compares what is said of the same patches, so weights may have turned in feature space.
    """
    ours, theirs = scores.reshape(-1, 3).double(), before.reshape(-1, 3).double()
    left, _, right = torch.linalg.svd(ours.mT @ theirs)
    rotation: Tensor = left @ right
    return rotation.float()


def as_colours(scores: Tensor) -> Tensor:
    """Scores (N, 3) with their 2 % to 98 % quantiles stretched to [0, 1], each a channel of RGB."""
    ordered = scores.sort(0).values
    low, high = (ordered[round(fraction * (len(ordered) - 1))] for fraction in (0.02, 0.98))
    stretched: Tensor = (scores - low) / (high - low).clamp(min=SMALLEST)
    return stretched.clamp(0, 1)
