"""The options of probes."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from bigrun import option
from bigrun.options import above, at_least, between, not_blank

__all__ = ["FOLDER", "LABELS", "NAMES", "TABLE", "ProbesConfig"]

TABLE = "plugins.probes"
NAMES = ("knn", "linear", "retrieval", "dense")
FOLDER = "folder"
LEVELS = ("patient", "study", "series")
"""What a data set may know of its samples."""
LABELS = (FOLDER, *LEVELS)
LABELLED = ("knn", "linear")


def known_probes(names: tuple[str, ...]) -> str | None:
    """Some of knn, linear, retrieval and dense."""
    if names and set(names) <= set(NAMES) and len(set(names)) == len(names):
        return None
    return f"expected some of {', '.join(NAMES)}, got {', '.join(names) or 'none'}"


def known_labels(name: str) -> str | None:
    """folder, patient, study or series."""
    return None if name in LABELS else f"expected {', '.join(LABELS[:-1])} or {LABELS[-1]}, got {name!r}"


def known_level(name: str) -> str | None:
    """patient, study or series."""
    return None if name in LEVELS else f"expected {', '.join(LEVELS[:-1])} or {LEVELS[-1]}, got {name!r}"


def has_labels(config: ProbesConfig) -> bool:
    return config.labels is not None or config.labels_file is not None


def has_masks(config: ProbesConfig) -> bool:
    return config.masks is not None


@attrs.frozen
class ProbesConfig:
    """What is asked, of which images, with which labels. Without labels and masks: view retrieval alone."""

    probes: tuple[str, ...] | None = option(
        None,
        check=known_probes,
        help="Of knn, linear, retrieval and dense; absent: all for which there are labels or masks.",
    )
    every_steps: int | None = option(
        None,
        check=at_least(1),
        help="Steps between two measurements; absent: with every checkpoint that is due, and at the last step.",
    )
    images: int = option(
        1024, check=between(2, 100_000), help="At most so many images, chosen by a hash of their names."
    )
    path: str | None = option(
        None,
        check=not_blank(),
        help="A folder of images to ask about; absent: the validation part of the data, or all of it where there is "
        "none.",
    )
    labels: str | None = option(
        None,
        check=known_labels,
        effective=lambda config: config.labels_file is None,
        otherwise="labels_file names the labels",
        help="The label of an image: the name of the folder that it lies in (folder), or its patient, study or series "
        "where the data set knows them.",
    )
    labels_file: str | None = option(
        None,
        check=not_blank(),
        help="A CSV file of the columns path and label; paths are relative to the folder of the images, and only those "
        "that it names are asked about.",
    )
    masks: str | None = option(
        None,
        check=not_blank(),
        help="A folder of class masks for the dense probe: a PNG file for an image at the same relative path, whose "
        "grey values are classes and 255 is nothing.",
    )
    side_px: int | None = option(
        None, check=at_least(8), help="Side to which images are resized; absent: that of the global crops."
    )
    query_fraction: float = option(
        0.25, check=between(0.05, 0.95), help="Share of the images that are asked about; the others are the gallery."
    )
    keep_together: str | None = option(
        None,
        check=known_level,
        effective=lambda config: has_labels(config) and not config.leave_one_out,
        otherwise="there are no labels, or leave_one_out asks about every image",
        help="Images of one patient, study or series are all asked about or all in the gallery: else a network is "
        "praised for knowing a neighbouring slice again.",
    )
    leave_one_out: bool = option(
        False,
        effective=has_labels,
        otherwise="there are no labels",
        help="k-NN asks about every image among all others, instead of queries in a gallery.",
    )
    k: int = option(10, check=at_least(1), help="Neighbours that vote.")
    temperature: float = option(
        0.07, check=between(0.0125, 100), help="A neighbour's vote weighs exp(cosine similarity / temperature)."
    )
    centred: bool = option(True, help="Whether k-NN takes the gallery's mean off the features first.")
    dense_images: int = option(
        128,
        check=between(2, 10_000),
        effective=has_masks,
        otherwise="there are no masks",
        help="At most so many images for the dense probe.",
    )
    retrieval_warn_ratio: float = option(
        2.0, check=above(1), help="The health report warns while view retrieval is below so many times chance."
    )

    @property
    def chosen(self) -> tuple[str, ...]:
        """The probes that are made, in the order of NAMES."""
        if self.probes is not None:
            return tuple(name for name in NAMES if name in self.probes)
        wanted = {"retrieval"} | (set(LABELLED) if has_labels(self) else set()) | ({"dense"} if self.masks else set())
        return tuple(name for name in NAMES if name in wanted)

    def problems(self) -> Iterator[tuple[str, str]]:
        asked = [name for name in LABELLED if name in (self.probes or ())]
        if asked and not has_labels(self):
            yield "probes", f"{' and '.join(asked)} need labels: set labels or labels_file, or ask for retrieval"
        if "dense" in (self.probes or ()) and not has_masks(self):
            yield "probes", "dense needs masks: set masks"
