"""How good are features, and have they collapsed? The same questions for whoever made them.

The numbers are functions of arrays alone, so features of another library, of an untrained network and raw pixels are
judged by the same code. Names and thresholds of the collapse indicators: docs/explanation/objective.md, [spec 10.4].
"""

from __future__ import annotations

import warnings
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bigrun.evaluation.knn import knn_accuracy

__all__ = ["WARNINGS", "Labels", "collapse_warnings", "joined", "knn_score", "linear_score", "rankme", "spread"]

Array = npt.NDArray[np.float32]

# [spec 10.4]: a value beyond its bound is a warning; the last word says beyond in which direction.
WARNINGS = {
    "s_cls": (0.3, "below"),
    "rankme_fraction": (0.1, "below"),
    "s_patch": (0.9, "above"),
    "cls_patch_cosine": (0.9, "above"),
    "prototypes_used": (0.1, "below"),
}
LINEAR_STRENGTHS = (0.003, 0.03, 0.3)
HELD_OUT = 5  # every fifth gallery image chooses the strength


@attrs.frozen(eq=False)
class Labels:
    """Which rows of the features are the gallery (the first ones), and the classes of all rows (n,) int64."""

    gallery: int
    values: npt.NDArray[np.int64]


def joined(cls: Array, patches: Array) -> Array:
    """Class token (n, D) beside mean patch token (n, D), each of length 1: (n, 2D), as in the linear probes of arXiv
    2304.07193."""
    halves = [F.normalize(torch.from_numpy(half), dim=1) for half in (cls, patches)]
    return torch.cat(halves, dim=1).numpy()


def knn_score(features: Array, labels: Labels) -> float:
    """Weighted k-NN accuracy of the queries, 0 to 1: cosine of centred features, k = 10, T = 0.07."""
    rows, classes, n = torch.from_numpy(features), torch.from_numpy(labels.values), labels.gallery
    return knn_accuracy(rows[:n], classes[:n], rows[n:], classes[n:])


def linear_score(features: Array, labels: Labels) -> float:
    """Accuracy of a logistic regression on standardised features, 0 to 1.

    Its strength C is the best of LINEAR_STRENGTHS on every fifth gallery image, which it has not seen.
    """
    n, classes = labels.gallery, labels.values
    held_out = np.arange(n) % HELD_OUT == 0
    mean, deviation = features[:n].mean(0), features[:n].std(0) + 1e-6
    rows = rotated((features - mean) / deviation, n)
    gallery = rows[:n]
    scores = [
        fitted(gallery[~held_out], classes[:n][~held_out], strength).score(gallery[held_out], classes[:n][held_out])
        for strength in LINEAR_STRENGTHS
    ]
    best = LINEAR_STRENGTHS[int(np.argmax(scores))]
    return float(fitted(gallery, classes[:n], best).score(rows[n:], classes[n:]))


def rotated(rows: Array, n: int) -> Array:
    """Rows (m, D) in the space of the first n, where n < D, as for raw pixels: (m, n).

    A penalty on the length of the weights does not see a rotation, and what lies outside that space has no weight: the
    classifier is the same, and fitted sooner.
    """
    if n >= rows.shape[1]:
        return rows
    _, _, directions = np.linalg.svd(rows[:n], full_matrices=False)  # (n, D)
    turned: Array = rows @ directions.T
    return turned


def fitted(rows: Array, classes: npt.NDArray[np.int64], strength: float) -> Any:
    """A scikit-learn classifier; one that has not converged is as good as it is."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=200).fit(rows, classes)


def rankme(cls: Array) -> float:
    """exp of the entropy of the singular values of uncentred rows of length 1 (arXiv 2210.02885, eq. 2): 1 to D."""
    rows = F.normalize(torch.from_numpy(cls).double(), dim=1)
    values = torch.linalg.svdvals(rows)
    shares = values / values.sum() + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def spread(cls: Array) -> float:
    """`s_cls`: sqrt(1 - |mean|^2) of rows of length 1; 0 when all are equal, 1 when their mean is 0."""
    mean = F.normalize(torch.from_numpy(cls).double(), dim=1).mean(0)
    return float((1 - mean.square().sum()).clamp(min=0).sqrt())


def collapse_warnings(indicators: dict[str, float]) -> list[str]:
    """Names of indicators beyond their bound; an indicator that is absent or NaN warns of nothing."""
    beyond = []
    for name, (bound, direction) in WARNINGS.items():
        value = indicators.get(name, float("nan"))
        if (direction == "below" and value < bound) or (direction == "above" and value > bound):
            beyond.append(name)
    return beyond
