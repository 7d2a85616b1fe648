"""From loose planes to stacks: one acquisition, one orientation, one size, in the order of positions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import attrs
import numpy as np

from bigrun_ct_import.geometry import Turn, normal_of, plane_name, tilt_degrees, turn_of_plane
from bigrun_ct_import.numbering import number
from bigrun_ct_import.planes import Plane
from bigrun_ct_import.skips import Skip

__all__ = ["Stack", "stacks_of"]

SAME_DIRECTION = 0.01


@attrs.frozen
class Stack:
    """The planes of a series in the order of their positions.

    Attributes:
        key: tells it from the other stacks of its series.
        numbers: index of each plane, see `Numbering`.
        spacing_mm: between columns, rows and slices of what is written, that is after `turn`.
        tilt_degrees: between its normal and the axis of the body.
        missing: slices that are missing between others.
    """

    key: str
    planes: tuple[Plane, ...] = attrs.field(repr=False)
    numbers: tuple[int, ...] = attrs.field(repr=False)
    spacing_mm: tuple[float, float, float]
    turn: Turn
    plane: str
    tilt_degrees: float
    missing: int
    is_irregular: bool


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
    """Each image once, whichever files hold it, in an order that does not depend on the files' names; files that were
    cut short come last, so that they take no place from a whole one.

    Images that are not alike are no copies, though broken exports give all of a series one number.
    """
    kept: dict[tuple[str, tuple[float, ...], bytes], Plane] = {}
    copies = []
    for plane in sorted(planes, key=lambda p: (p.is_cut, p.instance, p.image, p.position_mm, p.content, p.path)):
        identity = plane.image, plane.position_mm, plane.content
        if identity in kept:
            copies.append(Skip("copy", (plane.path,)))
        else:
            kept[identity] = plane
    return list(kept.values()), copies


def split(planes: Sequence[Plane]) -> Iterator[tuple[str, list[Plane]]]:
    """Planes of one size, spacing and orientation; then of one phase, where that makes better stacks."""
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
        for members in by_phase(group):
            yield f"{key} {common_phase(members)}", members


def is_alike(a: Plane, b: Plane) -> bool:
    return (
        a.shape == b.shape
        and np.allclose(a.spacing_mm, b.spacing_mm, rtol=1e-3)
        and np.allclose(a.orientation, b.orientation, atol=SAME_DIRECTION)
    )


def by_phase(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Phases apart if more slices have a neighbour at the usual distance then, as where phases repeat positions or are
    shifted against each other; else all together, as where a scanner numbers every slice as an acquisition."""
    best, most = [list(planes)], number(planes).joined
    for depth in (1, 2, 3):
        phases: dict[tuple[str, ...], list[Plane]] = defaultdict(list)
        for plane in planes:
            phases[plane.phase[:depth]].append(plane)
        joined = sum(number(members).joined for members in phases.values())
        if joined > most:
            best, most = [phases[phase] for phase in sorted(phases)], joined
    return best


def common_phase(planes: Sequence[Plane]) -> tuple[str, ...]:
    """What planes have in common of acquisition, time and phase of the heart: the same whether other phases came with
    them or come later."""
    return tuple(names[0] if len(set(names)) == 1 else "" for names in zip(*(p.phase for p in planes), strict=True))


def build(key: str, planes: Sequence[Plane], any_plane: bool) -> Iterator[Stack | Skip]:
    """One stack, and the planes for which there is no place in it."""
    normal = normal_of(planes[0].orientation)
    name = plane_name(normal)
    if name != "axial" and not any_plane:
        paths = tuple(plane.path for plane in planes)
        yield Skip("not-axial", paths, name, series=True, images=len(planes))
        return
    numbered = number(planes)
    for i in numbered.twice:
        yield Skip("unreadable" if planes[i].is_cut else "same-position", (planes[i].path,))
    ordered = tuple(planes[i] for i in numbered.kept)
    usual = numbered.usual_mm or planes[0].between_mm or planes[0].thickness_mm
    if usual is None:
        paths = tuple(plane.path for plane in ordered)
        yield Skip("no-geometry", paths, "no distance between slices", series=True, images=len(ordered))
        return
    turn = turn_of_plane(ordered[0].orientation) if name == "axial" else Turn()
    rows_mm, columns_mm = ordered[0].spacing_mm[:: -1 if turn.transpose else 1]
    yield Stack(
        key=key,
        planes=ordered,
        numbers=numbered.numbers,
        spacing_mm=(columns_mm, rows_mm, usual),
        turn=turn,
        plane=name,
        tilt_degrees=tilt_degrees(normal),
        missing=numbered.missing,
        is_irregular=numbered.is_irregular,
    )
