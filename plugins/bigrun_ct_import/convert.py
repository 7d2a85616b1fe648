"""One series from its files to its folder, in a process of a pool. One series is in memory at a time, a DICOM series
one slice at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from bigrun_ct_import.content import unreadable
from bigrun_ct_import.find import Found
from bigrun_ct_import.hounsfield import Encoding
from bigrun_ct_import.pixels import PixelReader
from bigrun_ct_import.planes import quiet
from bigrun_ct_import.skips import Refused, Skip
from bigrun_ct_import.stacks import Stack
from bigrun_ct_import.store import Record, write_series
from bigrun_ct_import.volumes import AIR_FRACTION, AIR_HU, read_volume, require_hounsfield

__all__ = ["Names", "Settings", "Task", "convert"]

Slices = Iterator[tuple[int, npt.NDArray[np.float64]]]


@attrs.frozen
class Settings:
    """What decides what is written of a file."""

    dataset: str
    modality: str
    encoding: Encoding
    any_plane: bool
    check_values: bool
    min_slices: int


@attrs.frozen
class Names:
    """Pseudonyms, as they are written."""

    series: str
    patient: str
    study: str


@attrs.frozen
class Task:
    """A series to be written to `out`.

    Attributes:
        how, origin: see `Record`.
        images: (name, what its file holds) of each plane, or of the volume.
        before: names of the images of which the series is made that is there: none of them may get lost.
    """

    out: Path
    names: Names
    how: str
    origin: str
    images: tuple[tuple[str, str], ...] = attrs.field(repr=False)
    settings: Settings
    source: Stack | Found
    before: frozenset[str] = frozenset()

    @property
    def paths(self) -> tuple[str, ...]:
        if isinstance(self.source, Found):
            return (str(self.source.path),)
        return tuple(dict.fromkeys(plane.path for plane in self.source.planes))


@attrs.define
class Tally:
    """What was met on the way."""

    encoding: Encoding
    shape: tuple[int, int] = (0, 0)
    numbers: list[int] = attrs.Factory(list)
    values: int = 0
    low: int = 0
    high: int = 0
    unknown: int = 0
    air: int = 0

    def encode(self, slices: Slices) -> Iterator[tuple[int, npt.NDArray[np.uint16]]]:
        for number, values in slices:
            self.shape = (values.shape[0], values.shape[1])
            self.numbers.append(number)
            self.values += values.size
            self.low += int((values < self.encoding.low).sum())
            self.high += int((values > self.encoding.high).sum())
            self.unknown += int(np.isnan(values).sum())
            self.air += int((values < AIR_HU).sum())
            yield number, self.encoding.encode(values)


def convert(task: Task) -> tuple[Record | None, list[Skip]]:
    """The record of a series that was written, and what was left out; of slices its record says it, too.

    Raises:
        OSError: it cannot be written.
        BigrunError: this process lacks what every file needs.
    """
    skips: list[Skip] = []
    with quiet():
        try:
            if isinstance(task.source, Found):
                return convert_volume(task, task.source), skips
            return convert_stack(task, task.source, skips), skips
        except Refused as refused:
            return None, all_of(task, refused, skips)
        except MemoryError as error:
            raise unreadable(task.paths[0], error) from None


def all_of(task: Task, refused: Refused, skips: list[Skip]) -> list[Skip]:
    """What was left out where nothing was written, `skips` of it slice by slice."""
    rest = len(task.images) - len(skips)
    if not rest:
        return [Skip(skips[0].reason, task.paths, skips[0].detail, series=True, images=len(skips))]
    left = {path for skip in skips for path in skip.paths}
    paths = tuple(path for path in task.paths if path not in left)
    return [*skips, Skip(refused.reason, paths, refused.detail, series=True, images=rest)]


def convert_volume(task: Task, found: Found) -> Record:
    """Raises: Refused, OSError, BigrunError."""
    volume = read_volume(found.path, found.kind)
    if volume.plane != "axial" and not task.settings.any_plane:
        raise Refused("not-axial", f"{volume.tilt_degrees:.1f} degrees")
    if task.settings.check_values:
        require_hounsfield(volume)

    def record(tally: Tally) -> Record:
        return record_of(
            task,
            tally,
            images=dict(task.images),
            left={},
            spacing_mm=volume.spacing_mm,
            plane=volume.plane,
            tilt_degrees=round(volume.tilt_degrees, 2),
            is_turned=volume.is_turned,
        )

    return write(task, volume.slices(), record)


def convert_stack(task: Task, stack: Stack, skips: list[Skip]) -> Record:
    """Raises: Refused, OSError, BigrunError."""

    def record(tally: Tally) -> Record:
        written = set(tally.numbers)
        images = {
            name: held for number, (name, held) in zip(stack.numbers, task.images, strict=True) if number in written
        }
        if not task.before <= images.keys():
            raise Refused("part-of-series", "slices that are in the data set cannot be read any more")
        between = sum(tally.numbers[0] < number < tally.numbers[-1] for number in set(stack.numbers) - written)
        return record_of(
            task,
            tally,
            images=images,
            left=dict(Counter(skip.reason for skip in skips)),
            missing=stack.missing + between,
            spacing_mm=stack.spacing_mm,
            plane=stack.plane,
            tilt_degrees=round(stack.tilt_degrees, 2),
            is_irregular=stack.is_irregular,
            is_turned=stack.turn.changes,
            is_lossy=any(plane.is_lossy for plane in stack.planes),
        )

    return write(task, read_stack(stack, skips), record)


def read_stack(stack: Stack, skips: list[Skip]) -> Slices:
    """The slices that can be read; what cannot leaves its number out, as a missing slice does."""
    reader = PixelReader()
    for number, plane in zip(stack.numbers, stack.planes, strict=True):
        try:
            values = reader.read(plane)
        except Refused as refused:
            skips.append(refused.skip(plane.path))
        else:
            yield number, stack.turn(values)


def write(task: Task, slices: Slices, record: Callable[[Tally], Record]) -> Record:
    """Raises: Refused where there are too few slices, or `record` does; all is as it was then."""
    tally = Tally(task.settings.encoding)

    def finish() -> Record:
        if len(tally.numbers) < task.settings.min_slices:
            raise Refused("few-slices", f"{len(tally.numbers)} slices")
        return record(tally)

    return write_series(task.out, task.names.series, tally.encode(slices), finish)


def record_of(task: Task, tally: Tally, **facts: Any) -> Record:
    """The record of what was written; `facts` are what its source knows besides."""
    settings = task.settings
    return Record(
        series=task.names.series,
        patient=task.names.patient,
        study=task.names.study,
        dataset=settings.dataset,
        modality=settings.modality,
        slope=settings.encoding.slope,
        offset=settings.encoding.offset,
        how=task.how,
        origin=task.origin,
        shape=tally.shape,
        numbers=tuple(tally.numbers),
        values=tally.values,
        low=tally.low,
        high=tally.high,
        unknown=tally.unknown,
        has_air=settings.modality != "CT" or tally.air >= AIR_FRACTION * tally.values,
        **facts,
    )
