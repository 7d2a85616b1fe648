"""k-nearest-neighbour classification: what features know of labels without anything being trained (arXiv 2104.14294).

By cosine similarity; each of the k nearest votes with the weight exp(similarity / temperature).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["knn_accuracy", "knn_predictions", "leave_one_out_accuracy"]

AT_ONCE = 2**24
"""Similarities of queries to the gallery that are in memory together: 64 MiB."""
COOLEST = 0.0125
"""exp(1 / 0.0125) is the largest weight that float32 holds without coming near its end, 3e38."""


def knn_predictions(
    gallery: Tensor,
    labels: Tensor,
    queries: Tensor,
    k: int = 10,
    temperature: float = 0.07,
    *,
    centred: bool = True,
) -> Tensor:
    """The label that wins the vote for each query; of equal ones the lowest.

    Args:
        gallery: (n, D); labels: (n,) int64, from 0; queries: (m, D); all on one device.
        k: neighbours that vote; all of the gallery where it has fewer.
        temperature: at least 0.0125.
        centred: whether the gallery's mean is subtracted from both first, which takes off what all images share.

    Returns:
        (m,) int64.

    Raises:
        ValueError: the gallery is empty, a feature is not finite, k or the temperature is too small.
    """
    mean = gallery.float().mean(0) if centred else 0.0
    a = F.normalize(gallery.float() - mean, dim=1)  # (n, D)
    b = F.normalize(queries.float() - mean, dim=1)  # (m, D)
    return voted(a, labels, b, k, temperature, without_itself=False)


def knn_accuracy(
    gallery: Tensor,
    gallery_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    k: int = 10,
    temperature: float = 0.07,
    *,
    centred: bool = True,
) -> float:
    """The share of queries whose label wins, 0 to 1; NaN where a feature is not finite. See `knn_predictions`."""
    if not (gallery.isfinite().all() and queries.isfinite().all()):
        return math.nan
    predicted = knn_predictions(gallery, gallery_labels, queries, k, temperature, centred=centred)
    return float((predicted == query_labels).float().mean())


def leave_one_out_accuracy(
    features: Tensor, labels: Tensor, k: int = 10, temperature: float = 0.07, *, centred: bool = True
) -> float:
    """The share of rows (n, D) whose label wins among all others, 0 to 1: every image is asked, none answers for
    itself. NaN where a feature is not finite. Raises ValueError as `knn_predictions`, and for a single row."""
    if len(features) < 2:
        raise ValueError(f"expected at least 2 rows, got {len(features)}")
    if not features.isfinite().all():
        return math.nan
    mean = features.float().mean(0) if centred else 0.0
    rows = F.normalize(features.float() - mean, dim=1)
    predicted = voted(rows, labels, rows, min(k, len(rows) - 1), temperature, without_itself=True)
    return float((predicted == labels).float().mean())


def voted(
    gallery: Tensor, labels: Tensor, queries: Tensor, k: int, temperature: float, *, without_itself: bool
) -> Tensor:
    """(m,) the winners, for rows of length 1. `without_itself`: the queries are the gallery, and none is its own
    neighbour."""
    if not len(gallery):
        raise ValueError("the gallery is empty")
    if k < 1 or temperature < COOLEST:
        raise ValueError(f"expected k of at least 1 and a temperature of at least {COOLEST}, got {k} and {temperature}")
    if not (gallery.isfinite().all() and queries.isfinite().all()):
        raise ValueError("a feature is not finite: nobody is its neighbour")
    winners, classes, at_once = [], int(labels.max()) + 1, max(AT_ONCE // len(gallery), 1)
    for start in range(0, len(queries), at_once):
        all_of_them = queries[start : start + at_once] @ gallery.T  # (b, n)
        if without_itself:
            rows = torch.arange(len(all_of_them), device=gallery.device)
            all_of_them[rows, rows + start] = -torch.inf
        similarity, index = all_of_them.topk(min(k, len(gallery)), dim=1)  # (b, k)
        votes = torch.zeros(len(similarity), classes, device=gallery.device)
        votes.scatter_add_(1, labels[index], (similarity / temperature).exp())
        winners.append(votes.argmax(1))
    return torch.cat(winners) if winners else labels[:0]
