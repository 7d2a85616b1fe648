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
    from bigrun.sections.views import Views as ViewsSection

__all__ = ["hit_rate", "two_views", "views_section"]

AT_ONCE = 2**25
"""Similarities that are in memory together: 256 MiB."""
GRAIN = 1e9
"""Steps in a similarity of 1. Rounding must not tell views apart that are the same: a step is far above it, and far
below any difference that a network in single precision can make."""


def views_section(views: ViewsSection, side_px: int) -> ViewsSection:
    """A run's options of its views as those of the two that are asked about."""
    return attrs.evolve(views, global_crops=2, local_crops=0, global_size_px=side_px, sizes_px=None, size_weights=None)


def two_views(run: Run, part: Part, side_px: int) -> Views:
    """The global crops of the run, two of each image, with draws of their own: the same at every measurement and in
    every run, and not those of training."""
    return Views(
        views_section(run.config.views, side_px),
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
    a, b = (F.normalize(views.double(), dim=1) for views in (first, second))
    return float((hits(a, b, among).mean() + hits(b, a, among).mean()) / 2)


def hits(asked: Tensor, gallery: Tensor, among: int) -> Tensor:
    """(n,) the probability of each row, (n, D) of length 1, to have its own row of the gallery among its first, with
    ties in random order."""
    rows = max(AT_ONCE // len(gallery), 1)
    found = []
    for start in range(0, len(asked), rows):
        similarity = (asked[start : start + rows] @ gallery.T).mul_(GRAIN).round_()  # (b, n)
        own = similarity.diagonal(start)[:, None]  # (b, 1)
        better = (similarity > own).sum(1)
        equal = (similarity == own).sum(1)  # itself included
        found.append(torch.clamp((among - better) / equal, 0, 1).double())
    return torch.cat(found)
