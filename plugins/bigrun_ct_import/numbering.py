"""Where slices lie along their normal, and which numbers they get for it."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np
import numpy.typing as npt

from bigrun_ct_import.geometry import normal_of
from bigrun_ct_import.planes import Plane

__all__ = ["Numbering", "number"]

SAME_MM = 0.01
"""Positions closer than this are one position; the thinnest CT slices are 0.2 mm apart."""
TOLERANCE = 0.1
TOLERANCE_MM = 0.11
"""Some archives round positions to a tenth of a millimetre: of slices 0.625 mm apart some are 0.6, some 0.7."""
IRREGULAR_STEP = 3
"""What the usual distance counts where there are others between neighbours, which count one more or less. Readers join
slices whose step is the median of steps: as distances do, so do steps grow, so that is the usual distance, however many
others there are; and no sum of steps is 3 again, if a slice cannot be read."""


@attrs.frozen
class Numbering:
    """
    Attributes:
        kept: planes in the order of their positions.
        twice: planes at the place of one that is kept.
        numbers: of each kept plane; only neighbours at the usual distance are the usual step apart.
        usual_mm: the (lower) median of distances; None with fewer than two positions.
        joined: pairs of neighbours at the usual distance.
        missing: slices that are missing between others.
        is_irregular: a distance is neither the usual one nor a multiple of it, by more than a tenth of it and 0.11 mm.
    """

    kept: tuple[int, ...]
    twice: tuple[int, ...]
    numbers: tuple[int, ...]
    usual_mm: float | None
    joined: int
    missing: int
    is_irregular: bool


def number(planes: Sequence[Plane]) -> Numbering:
    """Planes of one orientation; of several at one position the first counts."""
    along = np.array([plane.position_mm for plane in planes]) @ normal_of(planes[0].orientation)
    kept: list[int] = []
    twice: list[int] = []
    for i in np.argsort(along, kind="stable"):
        taken = kept and along[i] - along[kept[-1]] < SAME_MM
        (twice if taken else kept).append(int(i))
    distances = np.diff(along[kept])
    if not len(distances):
        return Numbering(tuple(kept), tuple(twice), (0,), None, 0, 0, False)
    usual = float(np.sort(distances)[(len(distances) - 1) // 2])
    steps, is_uneven = steps_of(distances, usual)
    is_broken = is_uneven & (steps == 1)
    unit = IRREGULAR_STEP if is_broken.any() else 1
    numbers = np.cumsum(unit * steps + is_broken * np.sign(distances - usual)).astype(int)
    joined = int(np.sum((steps == 1) & ~is_uneven))
    return Numbering(
        tuple(kept), tuple(twice), (0, *numbers.tolist()), usual, joined, int(steps.sum()) - len(steps),
        bool(is_uneven.any()),
    )  # fmt: skip


def steps_of(distances: npt.NDArray[np.float64], usual: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """(N,) how many usual distances each is, at least 1; (N,) whether it is no whole number of them."""
    steps = np.maximum(np.rint(distances / usual), 1)
    return steps, np.abs(distances - steps * usual) > max(TOLERANCE * usual, TOLERANCE_MM)
