"""View retrieval: does a network know an image again that it has been shown differently? Needs no labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from bigrun.data.draws import derive_seed
from bigrun.data.views import Views

if TYPE_CHECKING:
    from bigrun.evaluation.part import Part
    from bigrun.run import Run

__all__ = ["hit_rate", "two_views"]


def two_views(run: Run, part: Part, side_px: int) -> Views:
    """The global crops of the run, two of each image, with draws of their own: the same at every measurement and in
    every run, and not those of training."""
    section = attrs.evolve(
        run.config.views, global_crops=2, local_crops=0, global_size_px=side_px, sizes_px=None, size_weights=None
    )
    return Views(
        section,
        run.config.model.in_channels,
        derive_seed(0, "probes"),
        tone=part.tone,
        spacing_mm=part.spacing_mm,
        pin_memory=False,
    )


def hit_rate(first: Tensor, second: Tensor, among: int) -> float:
    """How often an image's other view is among the `among` most similar of all, 0 to 1.

    By cosine, from the first views (n, D) to the second ones and back. Views that are equally similar are taken in
    random order: constant features give exactly chance, `among` / n.
    """
    similarity = F.normalize(first.double(), dim=1) @ F.normalize(second.double(), dim=1).T  # (n, n)
    # Rounding must not tell views apart that are the same: a step of 1e-9 is far above it, and far below any difference
    # that a network in single precision can make.
    similarity = (similarity * 1e9).round()
    return float((hits(similarity, among).mean() + hits(similarity.T, among).mean()) / 2)


def hits(similarity: Tensor, among: int) -> Tensor:
    """(n,) the probability of each row to have its own column among its first, with ties in random order."""
    own = similarity.diagonal()[:, None]  # (n, 1)
    better = (similarity > own).sum(1)
    equal = (similarity == own).sum(1)  # itself included
    return torch.clamp((among - better) / equal, 0, 1).double()
