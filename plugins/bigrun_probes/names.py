"""What samples are called, and the one order and division that follow from it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bigrun.data.split.rule import normal, place

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset

__all__ = ["are_files", "by_place", "root_of", "sample_names"]

SEED = 0
"""Not the run's: two runs ask about the same images."""


def sample_names(dataset: Dataset) -> list[str]:
    """Of a file its path relative to the data set's root, wherever that lies; else what the data set calls it."""
    describe = getattr(dataset, "describe", None)
    if describe is None:
        return [f"image {index}" for index in range(len(dataset))]
    start = os.path.join(root_of(dataset) or "", "")  # noqa: PTH118 - every path begins with it
    return [normal(str(describe(index)).removeprefix(start)) for index in range(len(dataset))]


def are_files(dataset: Dataset) -> bool:
    """Whether the names are paths."""
    return root_of(dataset) is not None and hasattr(dataset, "describe")


def root_of(dataset: Dataset) -> str | None:
    """The folder that the paths are relative to."""
    root = getattr(getattr(dataset, "files", None), "root", None)
    return None if root is None else str(root)


def by_place(names: Sequence[str]) -> list[int]:
    """The numbers of names in the order of a hash of each: a name that joins later moves no other."""
    return sorted(range(len(names)), key=lambda number: (place(SEED, "probes", names[number]), names[number]))
