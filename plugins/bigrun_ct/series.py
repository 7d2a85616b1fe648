"""Which slices are neighbours: a table over all files, whatever of them is sampled."""

from __future__ import annotations

import attrs
import numpy as np
import numpy.typing as npt

from bigrun.data.files import Files
from bigrun.errors import UsageError

__all__ = ["Series", "find_series", "spacing_columns"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SAME_MM = 0.01  # spacings of a series that differ by less than this part are equal: they are rounded in many tables


@attrs.frozen(eq=False)
class Series:
    """The series of N files."""

    number: Ints  # (N,) of each file's series
    dataset: Ints  # (N,) of each file's data set
    datasets: tuple[str, ...]  # their names, sorted; one without a name is ""
    order: Ints  # (N,) files by series, and in a series by slice
    above: Ints  # (N,) the file of the next slice; the file itself at the end of its series and at a gap
    below: Ints  # (N,) the file of the slice before
    gaps: int  # places in series where a slice is missing or the spacing changes

    def reach(self, file: int, distance: int) -> list[int]:
        """The files of the slices z - distance to z + distance, clamped."""
        near = {0: file}
        for step in range(1, distance + 1):
            near[step] = int(self.above[near[step - 1]])
            near[-step] = int(self.below[near[1 - step]])
        return [near[step] for step in range(-distance, distance + 1)]

    def ranks(self) -> Ints:
        """(N,) how manieth slice of its series each file of `order` is, from 0."""
        numbers = self.number[self.order]
        firsts = np.flatnonzero(np.diff(numbers, prepend=-1))
        return np.arange(len(numbers)) - np.repeat(firsts, np.diff(firsts, append=len(numbers)))


def find_series(files: Files, source: str) -> Series:
    """The series of files by their columns `series` and `slice_index`, and `dataset` and `spacing_z` if there are such.

    Raises:
        UsageError: these columns are missing, or two files are the same slice.
    """
    for name in ("series", "slice_index"):
        if name not in files.columns:
            raise UsageError(
                f"{source}: its files have no column {name!r}; expected slices with an index.csv. A packed form or an "
                "index of such slices is made with the plugin, too: `bigrun data pack PRESET OUT` or --plugin ct-slices"
            )
    names, dataset = codes(files.column("dataset") if "dataset" in files.columns else np.array([None] * len(files)))
    _, inside = codes(files.column("series"))
    _, number = np.unique(dataset * (len(files) + 1) + inside, return_inverse=True)
    position = files.column("slice_index").astype(np.int64)
    order = np.lexsort((position, number))
    here, there = order[:-1], order[1:]
    same, step = number[here] == number[there], position[there] - position[here]
    twice = np.flatnonzero(same & (step == 0))
    if twice.size:
        one, other = (files.path(int(pair[twice[0]])) for pair in (here, there))
        series, index = files.column("series")[here[twice[0]]], position[here[twice[0]]]
        raise UsageError(
            f"{source}: {one} and {other} are the same slice of a series ({index} of {series}), and so are "
            f"{twice.size - 1:,} other pairs: remove one row of each from index.csv"
        )
    joined = same & (step == typical(step, number[here], same)[number[here]])
    joined &= regular(spacing_columns(files)[:, 2], number)[here] & regular(spacing_columns(files)[:, 2], number)[there]
    above, below = np.arange(len(files)), np.arange(len(files))
    above[here[joined]], below[there[joined]] = there[joined], here[joined]
    return Series(number, dataset, names, order, above, below, int((same & ~joined).sum()))


def codes(column: npt.NDArray[np.generic]) -> tuple[tuple[str, ...], Ints]:
    """The distinct texts of a column, sorted, and which one each row has; None is "". Numbers are texts, too."""
    found: dict[str, int] = {}
    texts = ("" if value is None else str(value) for value in column.tolist())
    met = np.fromiter((found.setdefault(text, len(found)) for text in texts), dtype=np.int64, count=len(column))
    names = sorted(found)
    place = np.empty(len(names), dtype=np.int64)
    place[[found[name] for name in names]] = np.arange(len(names))
    return tuple(names), place[met]


def spacing_columns(files: Files) -> npt.NDArray[np.float32]:
    """(N, 3): x, y, z in mm, NaN where unknown."""
    spacing = np.full((len(files), 3), np.nan, dtype=np.float32)
    for axis, name in enumerate(("spacing_x", "spacing_y", "spacing_z")):
        if name in files.columns:
            values = files.column(name)
            spacing[:, axis] = np.nan if values.dtype == object else values
    return spacing


def typical(values: npt.NDArray[np.generic], number: Ints, valid: npt.NDArray[np.bool_]) -> Floats:
    """(series,) the lower median of each series' valid values; NaN without any."""
    kept, of = values[valid].astype(np.float64), number[valid]
    by_series = np.lexsort((kept, of))
    found, firsts, counts = np.unique(of[by_series], return_index=True, return_counts=True)
    result = np.full(int(number.max()) + 1 if len(number) else 0, np.nan)
    result[found] = kept[by_series][firsts + (counts - 1) // 2]
    return result


def regular(spacing_z: npt.NDArray[np.float32], number: Ints) -> npt.NDArray[np.bool_]:
    """(N,) whether a slice's spacing is its series' own; what is not known is no contradiction."""
    own = typical(spacing_z, number, ~np.isnan(spacing_z))[number]
    return ~(np.abs(spacing_z - own) > SAME_MM * own)
