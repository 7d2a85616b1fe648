"""By what the samples of a data set can be kept together, and the group of each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrun.data.split.hashes import content_hashes
from bigrun.data.split.manifest import LEVELS
from bigrun.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from bigrun.data.dataset import Dataset
    from bigrun.data.files.entry import Files

__all__ = ["file_groups", "file_levels", "groups_of", "known_groups", "levels_of"]

COLUMNS = ("patient", "study", "series")
ROOT = "."
"""The folder of files that lie in none."""


def levels_of(dataset: Dataset) -> tuple[str, ...]:
    """The levels that a data set knows, from the coarsest to the finest.

    A data set says so itself (`levels`); one whose samples are its files knows what their columns, paths and contents
    say.
    """
    own = getattr(dataset, "levels", None)
    if own is not None:
        return tuple(level for level in LEVELS if level in own)
    files = sample_files(dataset)
    return () if files is None else file_levels(files)


def groups_of(dataset: Dataset, level: str, source: str) -> npt.NDArray[np.object_]:
    """(len(dataset),) str, the group of each sample at a level.

    Args:
        source: what messages call the data set.

    Raises:
        UsageError: the data set does not know the level, or not for every sample.
        DataError: its answer cannot be used.
    """
    groups = known_groups(dataset, level, source)
    unknown = np.flatnonzero([key is None for key in groups])
    if len(unknown):
        first = int(unknown[0])
        describe = getattr(dataset, "describe", None)
        raise UsageError(
            f"{source}: {len(unknown):,} of {len(dataset):,} samples have no {level}, the first "
            f"{describe(first) if describe else f'sample {first}'}: fill the column in, or choose another --level"
        )
    return groups


def known_groups(dataset: Dataset, level: str, source: str) -> npt.NDArray[np.object_]:
    """As `groups_of`, with None for a sample whose group the data set does not know.

    Raises:
        UsageError: the data set does not know the level.
        DataError: its answer cannot be used.
    """
    known = levels_of(dataset)
    if level not in known:
        raise UsageError(
            f"{source}: its data set ({type(dataset).__name__}) knows no {level}, "
            f"only {', '.join(known) or 'nothing'}; what a table in the folder says is known where a plugin reads it: "
            "give the preset that has the plugin in place of the folder, or choose another level"
        )
    own: Any = getattr(dataset, "groups", None)
    files = sample_files(dataset)
    if own is None and files is None:
        raise DataError(f"{source}: {type(dataset).__name__} has `levels`, but no `groups` to tell them")
    groups = own(level) if own is not None else file_groups(files, level)  # type: ignore[arg-type]
    if not isinstance(groups, np.ndarray) or groups.shape != (len(dataset),):
        raise DataError(f"{source}: {type(dataset).__name__}.groups: expected an array of {len(dataset)} texts")
    return as_objects([as_key(key) for key in groups.tolist()])


def file_levels(files: Files) -> tuple[str, ...]:
    """What is known of files: the columns patient, study and series if there are such, the folder, the contents."""
    return (*(name for name in COLUMNS if name in files.columns), "folder", "image")


def file_groups(files: Files, level: str) -> npt.NDArray[np.object_]:
    """(len(files),) str, or None where it is unknown: the group of each file at a level.

    `folder` is the first folder below the root; `image` the SHA-256 of the file's bytes, so that copies of a file are
    one group. Without an index every file is read for it.

    Raises:
        ValueError: for another level than those of `file_levels`.
        DataError: a file cannot be read.
    """
    if level not in file_levels(files):
        raise ValueError(f"expected one of {', '.join(file_levels(files))}, got {level!r}")
    if level == "image":
        values = [row.tobytes().hex() for row in content_hashes(files)]
    elif level == "folder":
        values = [top_folder(files.path(number)) for number in range(len(files))]
    else:
        values = [as_key(value) for value in files.column(level).tolist()]
    return as_objects(values)


def as_objects(values: Sequence[str | None]) -> npt.NDArray[np.object_]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def sample_files(dataset: Dataset) -> Files | None:
    """A data set's files, if each is one sample."""
    files: Files | None = getattr(dataset, "files", None)
    return files if files is not None and len(files) == len(dataset) else None


def top_folder(path: str) -> str:
    first, slash, _ = path.partition("/")
    return first if slash else ROOT


def as_key(value: Any) -> str | None:
    """A value of a column as text; None for one that is missing."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
