"""What is asked about: images, their labels, their masks, and which of them are the gallery."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np
import torch
from torch import Tensor

from bigrun.data.fingerprint import Fingerprint, fingerprint
from bigrun.data.folder import ImageFolder
from bigrun.data.subset import Subset
from bigrun.data.tone import FullRange, describe_tone
from bigrun.errors import UsageError
from bigrun.evaluation.images import FixedImages
from bigrun.evaluation.part import Part
from bigrun_probes.choice import balanced, queries, require_classes, share
from bigrun_probes.config import TABLE
from bigrun_probes.labels import labels_of, level_of_each
from bigrun_probes.masks import contiguous, mask_of, masked, read_crop, require_both_sides
from bigrun_probes.names import are_files, by_place, sample_names
from bigrun_probes.retrieval import views_section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bigrun.run import Run
    from bigrun_probes.config import ProbesConfig

__all__ = ["Labelled", "Masked", "ProbeSet"]

COUNTS = ("labels", "query_fraction", "keep_together", "leave_one_out", "k", "temperature",
          "centred", "dense_images")  # fmt: skip
"""Options on which a value depends, beside the images."""


@attrs.frozen(eq=False)
class Labelled:
    """The classes of the images of a set."""

    classes: tuple[str, ...]
    labels: Tensor  # (n,) int64
    is_query: Tensor  # (n,) bool


@attrs.frozen(eq=False)
class Masked:
    """Images with the classes of their pixels, which only the main process has read."""

    images: FixedImages
    pixels: Tensor  # (m, s, s) uint8, classes from 0, or IGNORED
    is_query: Tensor  # (m,) bool
    classes: tuple[int, ...]
    """What the masks call them."""

    def only(self, places: Tensor) -> Masked:
        """Those of these images, which are (k,) int64."""
        return attrs.evolve(self, pixels=self.pixels[places], is_query=self.is_query[places])


@attrs.frozen(eq=False)
class ProbeSet:
    """The images of one run's probes, the same at every measurement."""

    images: FixedImages
    labelled: Labelled | None
    masked: Masked | None
    identity: str
    """Of everything on which a value depends but the network: values of two sets cannot be compared."""
    summary: str

    @classmethod
    def of(cls, run: Run, config: ProbesConfig) -> ProbeSet:
        """Choose images of a run whose data is built.

        Raises:
            UsageError, DataError: there are no such images, labels or masks, or none that can be learnt from.
        """
        part = looked_at(run, config)
        names = sample_names(part.dataset)
        order = by_place(names)
        whole = run.undivided if config.path is None else None
        labels = labels_of(config, part.dataset, names, whole) if {"knn", "linear"} & set(config.chosen) else None
        if labels is None:
            chosen = order[: config.images]
        else:
            require_classes(labels, config.images, f"{TABLE}.{'labels_file' if config.labels_file else 'labels'}")
            chosen = balanced(order, labels, config.images)
        if len(chosen) < 2:
            raise UsageError(f"{TABLE}: {len(chosen)} image: expected 2 or more to tell apart")
        images = FixedImages(run, chosen, config.side_px, part)
        labelled = None if labels is None else labelled_of(config, part, [labels[n] or "" for n in chosen], chosen)
        shown = masked_of(run, config, part, names, order) if "dense" in config.chosen else None
        identity = identity_of(run, config, images, names, labelled, shown)
        return cls(images, labelled, shown, identity, summary(config, part, images, labelled, shown))


def looked_at(run: Run, config: ProbesConfig) -> Part:
    """A folder of its own, or the part of the run's data that is looked at."""
    if config.path is None:
        return Part.of(run)
    if describe_tone(run.views.tone) != FullRange().describe():
        raise UsageError(
            f"{TABLE}.path: the run's images are shown by {describe_tone(run.views.tone)}, which is not known of "
            "another folder: use the validation part of the run's data (data.split) with labels or a labels_file"
        )
    folder = ImageFolder.search(config.path, channels=run.config.model.in_channels)
    for finding in folder.unsearched():
        raise UsageError(f"{TABLE}.path: {finding.message}")
    return Part(folder, FullRange(), None, False)


def labelled_of(config: ProbesConfig, part: Part, labels: Sequence[str], chosen: Sequence[int]) -> Labelled:
    """Of labels of the chosen samples, in the order of the images' hashes."""
    classes = tuple(sorted(set(labels)))
    numbers = {label: number for number, label in enumerate(classes)}
    groups = [str(n) for n in chosen]
    if config.keep_together is not None:
        known = level_of_each(part.dataset, config.keep_together, "keep_together")
        groups = [f"{config.keep_together} {known[n]}" if known[n] else str(n) for n in chosen]
    is_query = queries(labels, groups, config.query_fraction, f"{TABLE}.keep_together")
    return Labelled(classes, torch.tensor([numbers[label] for label in labels]), torch.tensor(is_query))


def masked_of(run: Run, config: ProbesConfig, part: Part, names: Sequence[str], order: Sequence[int]) -> Masked:
    """The first images in the order that have a mask; of these the first ones are asked about."""
    assert config.masks is not None
    if not are_files(part.dataset):
        raise UsageError(
            f"{TABLE}.masks: the samples of {type(part.dataset).__name__} are no files that lie in a folder"
        )
    folder = Path(config.masks)
    found = masked(folder, names, order, config.dense_images)
    crops: dict[int, Tensor] = {}
    images = FixedImages(run, found, config.side_px, part)
    for samples in images.alone().samples():
        for index, image in zip(samples.indices.tolist(), samples.images, strict=True):
            height, width = image.shape[1:]
            crops[index] = read_crop(mask_of(folder, names[index]), (height, width), images.side_px)
    readable = [index for index in found if index in crops]
    if len(readable) < 2:
        raise UsageError(f"{TABLE}.masks: {len(readable)} of {len(found)} images with a mask can be read")
    pixels, classes = contiguous([crops[index] for index in readable], f"{TABLE}.masks: {folder}")
    asked = torch.arange(len(readable)) < share(len(readable), config.query_fraction)
    files = [mask_of(folder, names[index]) for index in readable]
    require_both_sides(pixels, asked, files)
    return Masked(FixedImages(run, readable, config.side_px, part), pixels, asked, classes)


def identity_of(
    run: Run,
    config: ProbesConfig,
    images: FixedImages,
    names: Sequence[str],
    labelled: Labelled | None,
    shown: Masked | None,
) -> str:
    """SHA-256, its first 16 digits, of everything on which a value depends but the network: which images, what they
    are, how they are shown, labels, masks and options.

    Files are known by their contents where an index has them, else by their sizes; samples that are no files by their
    names alone.
    """
    document = {
        "folder": config.path and str(Path(config.path).resolve()),
        "images": contents_of(images).as_facts(),
        "tone": describe_tone(images.part.tone),
        "views": attrs.asdict(views_section(run.config.views, images.side_px)),
        "options": {name: getattr(config, name) for name in COUNTS},
        "side_px": images.side_px,
        "names": [names[index] for index in images.indices],
        "labels": labelled and [labelled.classes, labelled.labels.tolist()],
        "masks": shown and [[names[index] for index in shown.images.indices], shown.classes],
        "images_with_masks": shown and contents_of(shown.images).as_facts(),
        "pixels": shown and hashlib.sha256(shown.pixels.numpy().tobytes()).hexdigest(),
    }
    text = json.dumps(document, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def contents_of(images: FixedImages) -> Fingerprint:
    """What the images are; of samples that are several to a file, what all files of the part are."""
    dataset = images.part.dataset
    files = getattr(dataset, "files", None)
    if files is not None and len(files) != len(dataset):
        return fingerprint(dataset)
    return fingerprint(Subset(dataset, np.array(images.indices, dtype=np.int64)))


def summary(
    config: ProbesConfig, part: Part, images: FixedImages, labelled: Labelled | None, shown: Masked | None
) -> str:
    """One line for people."""
    where = config.path or ("the validation part" if part.is_validation else "those that are trained on")
    text = f"{', '.join(config.chosen)}: {len(images.indices):,} images, of {where}"
    if labelled is not None:
        asked = (
            "each asked among the others" if config.leave_one_out else f"{int(labelled.is_query.sum()):,} asked about"
        )
        text += f" in {len(labelled.classes):,} classes, {asked}"
    if shown is not None:
        text += f"; {len(shown.images.indices):,} with masks of {len(shown.classes)} classes"
    return text
