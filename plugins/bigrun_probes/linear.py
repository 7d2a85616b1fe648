"""A linear classifier on features that are not trained: least squares on one-hot labels, in closed form.

The logistic regression that is usual elsewhere is a little better and has to be iterated; this one is exact, costs one
eigendecomposition for every strength of the penalty together, and is the same on every machine.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["STRENGTHS", "linear_accuracy", "ridge"]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Of the penalty, beside the mean squared error of standardised features."""
HELD_OUT = 5
"""Every fifth row of the gallery chooses the strength."""


def ridge(rows: Tensor, targets: Tensor, strengths: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Weights w and intercepts b that minimise the mean of |x w + b - y|^2 plus strength * |w|^2, for each strength.

    That is scikit-learn's `Ridge(alpha=n * strength)`. In the space of the rows or of the columns, whichever is the
    smaller.

    Args:
        rows: (n, D) x; targets: (n, C) y.

    Returns:
        (S, D, C) and (S, C), float64.
    """
    x, y = rows.double(), targets.double()
    mean, level = x.mean(0), y.mean(0)
    x, y = x - mean, y - level
    alphas = torch.tensor(strengths, dtype=torch.float64) * len(x)
    if len(x) < x.shape[1]:
        values, vectors = torch.linalg.eigh(x @ x.T)  # (n,), (n, n)
        solved = vectors @ ((vectors.T @ y)[None] / (values[None, :, None] + alphas[:, None, None]))  # (S, n, C)
        weights = x.T @ solved
    else:
        values, vectors = torch.linalg.eigh(x.T @ x)  # (D,), (D, D)
        weights = vectors @ ((vectors.T @ (x.T @ y))[None] / (values[None, :, None] + alphas[:, None, None]))
    return weights, level - mean @ weights


def linear_accuracy(gallery: Tensor, labels: Tensor, queries: Tensor, query_labels: Tensor) -> float:
    """The share of queries whose class has the largest output, 0 to 1.

    The strength is the best of STRENGTHS on every fifth row of the gallery, which the fit for it has not seen; of equal
    ones the strongest. The gallery must be in an order that says nothing of the classes.

    Args:
        gallery: (n, D); labels: (n,) int64; queries: (m, D); query_labels: (m,).
    """
    deviation, mean = torch.std_mean(gallery.double(), 0, correction=0)
    scale = 1 / deviation.clamp(min=1e-6)
    gallery, queries = (gallery.double() - mean) * scale, (queries.double() - mean) * scale
    targets = F.one_hot(labels, int(max(labels.max(), query_labels.max())) + 1)
    held_out = torch.arange(len(gallery)) % HELD_OUT == HELD_OUT - 1
    best = len(STRENGTHS) // 2
    if held_out.any():
        outputs = outputs_of(ridge(gallery[~held_out], targets[~held_out], STRENGTHS), gallery[held_out])
        scores = (outputs.argmax(-1) == labels[held_out]).double().mean(1).tolist()  # (S,)
        best = max(range(len(STRENGTHS)), key=lambda number: (scores[number], number))
    outputs = outputs_of(ridge(gallery, targets, (STRENGTHS[best],)), queries)
    return float((outputs[0].argmax(-1) == query_labels).double().mean())


def outputs_of(fitted: tuple[Tensor, Tensor], rows: Tensor) -> Tensor:
    """(S, m, C)."""
    weights, intercepts = fitted
    return rows.double() @ weights + intercepts[:, None]
