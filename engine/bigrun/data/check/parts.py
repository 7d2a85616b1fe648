"""How the split of a preset divides a data set that is checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bigrun.data.check.finding import Finding
from bigrun.data.fingerprint import fingerprint
from bigrun.data.split.groups import known_groups, levels_of
from bigrun.data.split.make import PEOPLE, Division, divide, mixed
from bigrun.data.split.read import read_document
from bigrun.data.split.rule import normal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from bigrun.data.dataset import Dataset
    from bigrun.data.split.manifest import Split

__all__ = ["division_of", "people_of", "split_findings"]


def division_of(split: Split, keys: npt.NDArray[np.object_]) -> Division:
    """Groups and samples of each part."""
    return divide(split, Counter(map(normal, keys.tolist())))


def people_of(dataset: Dataset, split: Split, keys: npt.NDArray[np.object_]) -> dict[str, tuple[int, int]]:
    """How many patients, studies and series are in training and in validation, as far as the data set knows.

    Args:
        keys: (len(dataset),) the group of each sample.
    """
    is_validation = split.validation(keys)
    counts = {}
    for level in [name for name in levels_of(dataset) if name in PEOPLE]:
        groups = known_groups(dataset, level, "data.split")
        training, validation = (groups[part].tolist() for part in (~is_validation, is_validation))
        counts[level] = count_groups(training), count_groups(validation)
    return counts


def count_groups(groups: list[str | None]) -> int:
    return len({normal(group) for group in groups if group is not None})


def split_findings(dataset: Dataset, division: Division, keys: npt.NDArray[np.object_]) -> Iterator[Finding]:
    """What is wrong with the parts, and whether the manifest is of these data.

    Args:
        keys: (len(dataset),) the group of each sample.
    """
    split = division.split
    for part, (groups, _) in (("training", division.training), ("validation", division.validation)):
        if not groups:
            yield Finding(
                f"no-{part}", f"{split.path}: there is nothing for {part}: is it the manifest of another data set?",
                refuses=part == "training",
            )  # fmt: skip
    for text in mixed(dataset, split, keys.tolist(), "data.split"):
        yield Finding("split-level", text)
    if split.path is None:
        return
    source, now = read_document(split.path)[1].get("source"), fingerprint(dataset)
    if isinstance(source, dict) and source.get("kind") == now.kind and source.get("sha256") != now.sha256:
        yield Finding(
            "other-files",
            f"{split.path} was made of {source.get('files')} files, and the data set has others, {now.files:,}: groups "
            "that came since have their part by the rule",
        )
