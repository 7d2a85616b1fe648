"""The numbers: what a network, or the pixels alone, know of the images of a set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bigrun_probes.classify import dense_scores, label_scores
from bigrun_probes.dense import overlap
from bigrun_probes.look import look, look_at_patches
from bigrun_probes.retrieval import hit_rate

if TYPE_CHECKING:
    from bigrun.model.vit import VisionTransformer
    from bigrun.run import Run
    from bigrun_probes.config import ProbesConfig
    from bigrun_probes.probe_set import ProbeSet

__all__ = ["by_chance", "counts", "measured", "wait_for"]


def wait_for(device: torch.device) -> None:
    """Until it has done what it was asked to do."""
    torch.zeros((), device=device).item()


@torch.no_grad()
def measured(run: Run, backbone: VisionTransformer | None, asked: ProbeSet, config: ProbesConfig) -> dict[str, float]:
    """All values by the names of their metrics; of features that are not finite there are none. All processes show the
    images to a backbone, and only the main one has values.

    Draws nothing from a global generator and records nothing. The classifiers are on the CPU.

    Args:
        backbone: in eval mode; None for the pixels themselves: of thumbnails, and of each patch.

    Raises:
        DataError: too few of the images can be read.
    """
    values: dict[str, float] = {}
    rows = look(run, backbone, asked.images, with_views="retrieval" in config.chosen)
    shown = None if asked.masked is None else look_at_patches(run, backbone, asked.masked.images)
    if not run.is_main:
        return values
    if asked.labelled is not None and bool(rows.joined.isfinite().all()):
        labels, is_query = asked.labelled.labels[rows.found], asked.labelled.is_query[rows.found]
        values |= label_scores(rows.tokens, rows.joined, labels, is_query, config)
    if rows.views is not None and bool(rows.views.isfinite().all()):
        first, second = rows.views
        values |= {f"probe/retrieval_top{among}": hit_rate(first, second, among) for among in (1, 5)}
        values["probe/retrieval_ratio_to_chance"] = values["probe/retrieval_top1"] * len(rows.found)
    if asked.masked is not None and shown is not None and bool(shown[1].isfinite().all()):
        found, patches = shown
        values |= dense_scores(patches, asked.masked.only(found), run.config.model.patch_size_px, config)
    return values


def by_chance(asked: ProbeSet, config: ProbesConfig) -> dict[str, float]:
    """What a network reaches that says nothing: always the gallery's commonest class, or an image drawn by lot."""
    values: dict[str, float] = {}
    if asked.labelled is not None:
        labels, is_query = asked.labelled.labels, asked.labelled.is_query
        always = float((labels[is_query] == labels[~is_query].mode().values).double().mean())
        whole = float((labels == labels.mode().values).double().mean())
        values |= {"probe/knn_accuracy": whole if config.leave_one_out else always} if "knn" in config.chosen else {}
        values |= {"probe/linear_accuracy": always} if "linear" in config.chosen else {}
    if "retrieval" in config.chosen:
        values |= {f"probe/retrieval_top{n}": min(n / len(asked.images.indices), 1.0) for n in (1, 5)}
        values["probe/retrieval_ratio_to_chance"] = 1.0
    if asked.masked is not None:
        pixels, is_query, classes = asked.masked.pixels, asked.masked.is_query, len(asked.masked.classes)
        counts = torch.stack([(pixels[~is_query] == number).sum() for number in range(classes)])
        true = pixels[is_query]
        found = overlap(counts.argmax().expand_as(true), true, classes)
        values |= {"probe/dense_miou": found.miou, "probe/dense_pixel_accuracy": found.pixel_accuracy}
    return values


def counts(asked: ProbeSet, config: ProbesConfig) -> dict[str, int]:
    """Of how many images each value is a share."""
    retrieval = ("probe/retrieval_top1", "probe/retrieval_top5", "probe/retrieval_ratio_to_chance")
    numbers = dict.fromkeys(retrieval, len(asked.images.indices))
    if asked.labelled is not None:
        queries = int(asked.labelled.is_query.sum())
        numbers["probe/knn_accuracy"] = len(asked.labelled.labels) if config.leave_one_out else queries
        numbers["probe/linear_accuracy"] = queries
    if asked.masked is not None:
        queries = int(asked.masked.is_query.sum())
        numbers |= {"probe/dense_miou": queries, "probe/dense_pixel_accuracy": queries}
    return numbers
