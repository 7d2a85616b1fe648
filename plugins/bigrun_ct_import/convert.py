"""One series from its files to its folder, in a process of a pool. One series is in memory at a time, a DICOM series
one slice at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from bigrun_ct_import.find import Found
from bigrun_ct_import.hounsfield import Encoding
from bigrun_ct_import.pixels import PixelReader
from bigrun_ct_import.planes import quiet
from bigrun_ct_import.skips import Refused, Skip
from bigrun_ct_import.stacks import Stack
from bigrun_ct_import.store import Record, write_series
from bigrun_ct_import.volumes import Volume, read_volume, require_hounsfield

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
    """A series to be written to `out`."""

    out: Path
    names: Names
    fingerprint: str
    settings: Settings
    source: Stack | Found

    @property
    def paths(self) -> tuple[str, ...]:
        if isinstance(self.source, Found):
            return (str(self.source.path),)
        return tuple(plane.path for plane in self.source.planes)


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

    def encode(self, slices: Slices) -> Iterator[tuple[int, npt.NDArray[np.uint16]]]:
        for number, values in slices:
            self.shape = (values.shape[0], values.shape[1])
            self.numbers.append(number)
            self.values += values.size
            self.low += int((values < self.encoding.low).sum())
            self.high += int((values > self.encoding.high).sum())
            self.unknown += int(np.isnan(values).sum())
            yield number, self.encoding.encode(values)


def convert(task: Task) -> tuple[Record | None, list[Skip]]:
    """The record of a series that was written, and what was left out.

    Raises:
        OSError: it cannot be written.
    """
    skips: list[Skip] = []
    with quiet():
        try:
            if isinstance(task.source, Found):
                return convert_volume(task, task.source), skips
            return convert_stack(task, task.source, skips), skips
        except Refused as refused:
            left = [skip.paths[0] for skip in skips]
            paths = tuple(path for path in task.paths if path not in left)
            skips.append(Skip(refused.reason, paths, refused.detail, series=True, images=len(task.paths) - len(left)))
            return None, skips


def convert_volume(task: Task, found: Found) -> Record:
    """Raises: Refused, OSError."""
    volume = read_volume(found.path, found.kind)
    if task.settings.check_values:
        require_hounsfield(volume)
    return write(task, volume.slices(), lambda tally: record_of_volume(task, volume, tally))


def record_of_volume(task: Task, volume: Volume, tally: Tally) -> Record:
    return record_of(
        task,
        tally,
        spacing_mm=volume.spacing_mm,
        tilt_degrees=round(volume.tilt_degrees, 2),
        is_turned=volume.is_turned,
    )


def convert_stack(task: Task, stack: Stack, skips: list[Skip]) -> Record:
    """Raises: Refused, OSError."""

    def record(tally: Tally) -> Record:
        return record_of(
            task,
            tally,
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
            skips.append(Skip(refused.reason, (plane.path,), refused.detail))
        else:
            yield number, stack.turn(values)


def write(task: Task, slices: Slices, record: Callable[[Tally], Record]) -> Record:
    """Raises: Refused where there are too few slices; nothing is there then."""
    tally = Tally(task.settings.encoding)

    def finish() -> Record | None:
        return record(tally) if len(tally.numbers) >= task.settings.min_slices else None

    written = write_series(task.out, task.names.series, tally.encode(slices), finish)
    if written is None:
        raise Refused("few-slices", f"{len(tally.numbers)} slices")
    return written


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
        fingerprint=task.fingerprint,
        shape=tally.shape,
        numbers=tuple(tally.numbers),
        values=tally.values,
        low=tally.low,
        high=tally.high,
        unknown=tally.unknown,
        **facts,
    )
