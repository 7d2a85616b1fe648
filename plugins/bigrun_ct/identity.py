"""Which slices a run was begun with: a hash of each column that decides what is seen, and of nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bigrun_ct.dataset import SliceDataset

__all__ = ["differences", "identity"]


def identity(dataset: SliceDataset) -> dict[str, Any]:
    """The number of samples, and column of index.csv -> SHA-256 of its values, in the order of series and slices.

    The rows' own order, columns that decide nothing, and where the folder lies do not matter; a packed form has the
    same.
    """
    files, series = dataset.files, dataset.series
    order = series.order.tolist()
    names, texts = np.array(series.datasets, dtype=object)[series.dataset], files.column("series")
    spacing = dataset.spacing[series.order]
    spacing[np.isnan(spacing)] = np.nan  # of which there are many
    return {
        "samples": len(dataset),
        "png_path": digest(files.path(number) for number in order),
        "series_dir": digest(texts[number] for number in order),
        "slice_index": digest(str(index) for index in files.column("slice_index")[series.order].tolist()),
        "dataset": digest(names[number] for number in order),
        "spacing": hashlib.sha256(spacing.astype("<f4").tobytes()).hexdigest(),
    }


def digest(texts: Iterable[object]) -> str:
    whole = hashlib.sha256()
    for text in texts:
        whole.update(str(text).encode("utf-8", "surrogateescape") + b"\0")
    return whole.hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is another, as lines; none with another number of samples, which the engine refuses unless it is meant."""
    if before.get("samples") != now["samples"]:
        return []
    return [f"  index.csv: other values of {name}" for name in now if before.get(name) != now[name]]
