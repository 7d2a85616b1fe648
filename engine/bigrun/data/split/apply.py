"""A split in a run: it trains on the training part, and the other part waits for whoever evaluates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bigrun.data.split.groups import groups_of
from bigrun.data.split.manifest import Split
from bigrun.data.subset import Subset, subset_of
from bigrun.directory import replace_file
from bigrun.errors import RunDirectoryError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import numpy.typing as npt

    from bigrun.data.dataset import Dataset
    from bigrun.data.files.entry import Files
    from bigrun.run import Run

__all__ = [
    "OPTION",
    "SPLIT",
    "check_same_split",
    "copy_split",
    "split_dataset",
    "split_facts",
    "split_line",
    "split_warnings",
]

SPLIT = "split.json"
"""The manifest's copy in a run directory."""
OPTION = "data.split"
SHOWN = 3


def split_dataset(run: Run) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Leave the training part of `run.dataset` there, and put the other into `run.validation`.

    A data set that knew of `run.split` and has only training samples stays as it is.

    Returns:
        (n,) what the training samples' indices were in the whole data set, and (m,) those of the others; None where it
        was not divided.

    Raises:
        UsageError: the data set does not know the level, cannot be divided, or is one part alone.
        DataError: what the data set makes for training has samples of the validation part.
    """
    split = run.split
    if split is None:
        return None
    whole = run.dataset
    is_validation = split.validation(groups_of(whole, split.level, OPTION))
    if not is_validation.any():
        return None
    if is_validation.all():
        raise UsageError(
            f"{OPTION}: {split.path}: all {len(whole):,} samples of the data set are in its validation part: there is "
            "nothing to train on; is it the manifest of another data set?"
        )
    training, validation = np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
    run.dataset = subset_of(whole, training)
    run.validation = subset_of(whole, validation)
    if not isinstance(run.dataset, Subset):
        refuse_leak(run.dataset, split)
    return training, validation


def refuse_leak(training: Dataset, split: Split) -> None:
    """Raises: UsageError when a data set's own training part holds samples of the validation part."""
    keys = groups_of(training, split.level, OPTION)
    wrong = np.flatnonzero(split.validation(keys))
    if len(wrong):
        describe = getattr(training, "describe", str)
        named = ", ".join(f"{describe(int(index))} ({split.level} {keys[index]})" for index in wrong[:SHOWN])
        raise UsageError(
            f"{OPTION}: {len(wrong):,} of the {len(training):,} samples that the data set's `subset` gives to train on "
            f"are in the validation part, the first: {named}; this is a defect of the plugin that brings it"
        )


def copy_split(run: Run) -> None:
    """Keep the manifest in the run directory."""
    if run.split is not None:
        replace_file(run.directory / SPLIT, run.split.contents)


def split_facts(run: Run) -> dict[str, Any] | None:
    """What a checkpoint says of the split, as JSON; None without one."""
    split = run.split
    if split is None:
        return None
    return {"path": str(split.path), "sha256": split.sha256, "identity": split.identity, "level": split.level}


def check_same_split(run: Run, saved: dict[str, Any] | None, checkpoint: Path, allowed: Collection[str]) -> None:
    """Refuse to continue a run on other samples.

    Args:
        saved: `split_facts` in the checkpoint.

    Raises:
        RunDirectoryError: the manifest divides otherwise than the checkpoint's.
    """
    now, was = (facts and facts["identity"] for facts in (split_facts(run), saved))
    if now == was:
        return
    text = f"{run.split.path} divides otherwise than the manifest" if run.split else "no manifest, where there was one"
    if OPTION in allowed:
        run.event("config-changed", f"{OPTION}: {text} when {checkpoint} was saved", "warning", key=OPTION)
        return
    raise RunDirectoryError(
        f"{OPTION}: {text} when {checkpoint} was saved: what was for validation would be trained on, or the other way "
        f"round; the manifest of then is {checkpoint.parents[1] / SPLIT}. Restore it, start beside the run with "
        f"--fresh, or say --allow-change {OPTION} if that is meant"
    )


def split_warnings(run: Run) -> Iterator[str]:
    """What is likely to be a mistake."""
    if run.split is not None and run.validation is None:
        yield (
            f"data.split = {run.split.path}: keeps nothing apart, for no sample is in its validation part; is it the "
            "manifest of other data?"
        )


def split_line(run: Run) -> str | None:
    """The header's line about the split; None without one."""
    split = run.split
    if split is None:
        return None
    if run.validation is None:
        return f"by {split.level}, {split.path}: no sample of the data set is in its validation part"
    files: Files | None = getattr(run.undivided, "files", None)
    reads = split.level == "image" and files is not None and files.content_hash is None
    note = "; every file is read for it at each start, since there is no index" if reads else ""
    return (
        f"by {split.level}: {len(run.dataset):,} samples for training, {len(run.validation):,} left out for validation "
        f"({split.path}){note}"
    )
