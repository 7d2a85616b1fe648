"""From loose planes to stacks: one acquisition, one orientation, one size, in the order of positions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import attrs
import numpy as np
import numpy.typing as npt

from bigrun_ct_import.geometry import Turn, normal_of, plane_name, tilt_degrees, turn_of_plane
from bigrun_ct_import.planes import Plane
from bigrun_ct_import.skips import Skip

__all__ = ["Stack", "stacks_of"]

SAME_MM = 0.01
"""Positions closer than this are one position; the thinnest CT slices are 0.2 mm apart."""
SAME_DIRECTION = 0.01
GAP = 1.5
"""A distance of so many times the usual one: at least one slice is missing."""
IRREGULAR = 0.1


@attrs.frozen
class Stack:
    """The planes of a series in the order of their positions.

    Attributes:
        key: tells it from the other stacks of its series.
        numbers: index of each plane, counted in the usual distance: a missing slice leaves its number out.
        spacing_mm: between columns, rows and slices of what is written, that is after `turn`.
        tilt_degrees: between its normal and the axis of the body.
        is_irregular: distances differ from the usual one, or its multiples, by more than a tenth.
    """

    key: str
    planes: tuple[Plane, ...] = attrs.field(repr=False)
    numbers: tuple[int, ...] = attrs.field(repr=False)
    spacing_mm: tuple[float, float, float]
    turn: Turn
    plane: str
    tilt_degrees: float
    is_irregular: bool

    @property
    def missing(self) -> int:
        """Slices that are missing between others."""
        return self.numbers[-1] + 1 - len(self.numbers)

    @property
    def gaps(self) -> int:
        """Places where slices are missing."""
        return sum(b - a > 1 for a, b in zip(self.numbers, self.numbers[1:], strict=False))


def stacks_of(planes: Iterable[Plane], any_plane: bool = False) -> Iterator[Stack | Skip]:
    """The stacks of many series, ordered by series, and what is left out of them.

    Args:
        any_plane: coronal, sagittal and oblique stacks too, which stay as they are.
    """
    series: dict[tuple[str, str], list[Plane]] = defaultdict(list)
    for plane in planes:
        series[plane.series, plane.patient].append(plane)  # a number that two patients share is two series
    for members in (series[name] for name in sorted(series)):
        images, copies = without_copies(members)
        yield from copies
        for key, group in split(images):
            yield from build(key, group, any_plane)


def without_copies(planes: Sequence[Plane]) -> tuple[list[Plane], list[Skip]]:
    """Each image once, whichever files hold it, in an order that does not depend on the files' names."""
    kept: dict[str, Plane] = {}
    copies = []
    for plane in sorted(planes, key=lambda p: (p.instance, p.image, p.path)):
        if plane.image in kept:
            copies.append(Skip("copy", (plane.path,)))
        else:
            kept[plane.image] = plane
    return list(kept.values()), copies


def split(planes: Sequence[Plane]) -> Iterator[tuple[str, list[Plane]]]:
    """Planes of one size, spacing and orientation; then of one phase, where phases repeat positions."""
    groups: list[list[Plane]] = []
    for plane in planes:
        for group in groups:
            if is_alike(group[0], plane):
                group.append(plane)
                break
        else:
            groups.append([plane])
    for group in groups:
        first = group[0]
        shape = f"{first.shape} {tuple(round(mm, 5) for mm in first.spacing_mm)}"
        key = f"{shape} {tuple(round(direction, 2) + 0.0 for direction in first.orientation)}"
        for phase, members in by_phase(group):
            yield key + phase, members


def is_alike(a: Plane, b: Plane) -> bool:
    return (
        a.shape == b.shape
        and np.allclose(a.spacing_mm, b.spacing_mm, rtol=1e-3)
        and np.allclose(a.orientation, b.orientation, atol=SAME_DIRECTION)
    )


def by_phase(planes: Sequence[Plane]) -> Iterator[tuple[str, list[Plane]]]:
    """Phases apart if that leaves no position twice; else all together.

    There are at most as many phases as images at one position: a scanner may number every slice as an acquisition. One
    position alone, watched over time, is no volume, however it is split.
    """
    repeats = Counter(positions_of(planes))
    most = 0 if len(repeats) == 1 else max(repeats.values())
    for depth in (1, 2, 3) if most > 1 else ():
        phases: dict[tuple[str, ...], list[Plane]] = defaultdict(list)
        for plane in planes:
            phases[plane.phase[:depth]].append(plane)
        is_clean = all(len(set(positions_of(members))) == len(members) for members in phases.values())
        if is_clean and len(phases) <= most:
            yield from ((f" {phase}", phases[phase]) for phase in sorted(phases))
            return
    yield "", list(planes)


def positions_of(planes: Sequence[Plane]) -> list[int]:
    """Positions along the first plane's normal, in hundredths of a millimetre."""
    along = np.array([plane.position_mm for plane in planes]) @ normal_of(planes[0].orientation)
    return [int(step) for step in np.rint(along / SAME_MM)]


def build(key: str, planes: Sequence[Plane], any_plane: bool) -> Iterator[Stack | Skip]:
    """One stack, and the planes for which there is no place in it."""
    normal = normal_of(planes[0].orientation)
    name = plane_name(normal)
    if name != "axial" and not any_plane:
        paths = tuple(plane.path for plane in planes)
        yield Skip("not-axial", paths, name, series=True, images=len(planes))
        return
    along = np.array([plane.position_mm for plane in planes]) @ normal
    kept: list[int] = []
    for i in np.argsort(along, kind="stable"):  # stable: the lower instance number first
        if kept and along[i] - along[kept[-1]] < SAME_MM:
            yield Skip("same-position", (planes[i].path,))
        else:
            kept.append(int(i))
    ordered = tuple(planes[i] for i in kept)
    distances = np.diff(along[kept])
    usual = usual_distance(ordered, distances)
    if usual is None:
        paths = tuple(plane.path for plane in ordered)
        yield Skip("no-geometry", paths, "no distance between slices", series=True, images=len(ordered))
        return
    steps = np.maximum(np.rint(distances / usual), 1)
    turn = turn_of_plane(ordered[0].orientation) if name == "axial" else Turn()
    rows_mm, columns_mm = ordered[0].spacing_mm[:: -1 if turn.transpose else 1]
    yield Stack(
        key=key,
        planes=ordered,
        numbers=(0, *(int(number) for number in np.cumsum(steps))),
        spacing_mm=(columns_mm, rows_mm, usual),
        turn=turn,
        plane=name,
        tilt_degrees=tilt_degrees(normal),
        is_irregular=bool(np.any(np.abs(distances / usual - steps) > IRREGULAR)),
    )


def usual_distance(planes: Sequence[Plane], distances: npt.NDArray[np.float64]) -> float | None:
    """Between neighbours, in mm: the median of positions; of one slice alone what its header says."""
    if len(distances):
        return float(np.median(distances))
    return planes[0].between_mm or planes[0].thickness_mm
