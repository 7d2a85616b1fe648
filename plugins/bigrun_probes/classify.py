"""From features and labels to shares of right answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bigrun.errors import DataError
from bigrun.evaluation.knn import knn_accuracy, knn_predictions, leave_one_out_accuracy
from bigrun_probes.dense import as_patches, confusion, majority, overlap_of
from bigrun_probes.linear import linear_accuracy

if TYPE_CHECKING:
    from bigrun_probes.config import ProbesConfig
    from bigrun_probes.probe_set import Masked

__all__ = ["dense_scores", "label_scores"]

IMAGES_AT_ONCE = 32
"""Whose pixels are counted together: with 512 x 512 of them each 64 MB as class numbers."""


def label_scores(
    tokens: Tensor, joined: Tensor, labels: Tensor, is_query: Tensor, config: ProbesConfig
) -> dict[str, float]:
    """k-NN on tokens (n, D), the linear probe on joined (n, E)."""
    require_both(is_query)
    values: dict[str, float] = {}
    known, asked, k, temperature = labels[~is_query], labels[is_query], config.k, config.temperature
    if "knn" in config.chosen and config.leave_one_out:
        values["probe/knn_accuracy"] = leave_one_out_accuracy(tokens, labels, k, temperature, centred=config.centred)
    elif "knn" in config.chosen:
        values["probe/knn_accuracy"] = knn_accuracy(
            tokens[~is_query], known, tokens[is_query], asked, k, temperature, centred=config.centred
        )
    if "linear" in config.chosen:
        values["probe/linear_accuracy"] = linear_accuracy(joined[~is_query], known, joined[is_query], asked)
    return values


def dense_scores(patches: Tensor, asked: Masked, patch_px: int, config: ProbesConfig) -> dict[str, float]:
    """k-NN of patches (m, P, D): a patch of the gallery has the commonest class of its pixels, and what is named for a
    patch that is asked about counts for each of its pixels.

    Raises:
        DataError: of the images that could be read, those of one side have no pixel with a class.
    """
    is_query, classes = asked.is_query, len(asked.classes)
    require_both(is_query)
    known = torch.split(asked.pixels[~is_query], IMAGES_AT_ONCE)
    labels = torch.cat([majority(as_patches(pixels, patch_px), classes) for pixels in known]).flatten()
    has_class = labels < classes
    if not bool(has_class.any()):
        raise DataError("no patch of the gallery has a class")
    gallery, labels = patches[~is_query].flatten(0, 1)[has_class], labels[has_class]
    counted = torch.zeros(classes, classes, dtype=torch.int64)
    sides = (torch.split(rows[is_query], IMAGES_AT_ONCE) for rows in (patches, asked.pixels))
    for some, pixels in zip(*sides, strict=True):
        true = as_patches(pixels, patch_px).flatten(0, 1)  # (q, p * p)
        named = knn_predictions(
            gallery, labels, some.flatten(0, 1), config.k, config.temperature, centred=config.centred
        )
        counted += confusion(named[:, None].expand_as(true), true, classes)
    if not bool(counted.any()):
        raise DataError("no pixel of the images that are asked about has a class")
    found = overlap_of(counted)
    return {"probe/dense_miou": found.miou, "probe/dense_pixel_accuracy": found.pixel_accuracy}


def require_both(is_query: Tensor) -> None:
    if bool(is_query.all()) or not bool(is_query.any()):
        raise DataError("of the images either none that is asked about or none of the gallery can be read")
