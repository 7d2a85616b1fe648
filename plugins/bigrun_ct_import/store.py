"""The folder that an import fills: a folder for each series, and an index of them all.

A series is written beside its place and renamed when it is whole. What is known of it is in its `series.json`, so that
the index can be made anew from the folders alone.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from bigrun.checkpoint.disk import sync, sync_directory
from bigrun.errors import UsageError
from bigrun_ct_import.png import write_png

__all__ = ["INDEX", "Record", "Store", "replace_file", "write_series"]

MARK = "import.json"
INDEX = "index.csv"
FACTS = "series.json"
FORMAT = 2
DRAFT, OLD = ".partial-", ".old-"
COLUMNS = (
    "png_path", "series_dir", "slice_index", "spacing", "spacing_x", "spacing_y", "spacing_z", "dataset", "patient",
    "study",
)  # fmt: skip


@attrs.frozen
class Record:
    """What is known of an imported series; of patient, study and series only pseudonyms.

    Attributes:
        how: what decided how it was written, but for the patient: another one means that it has to be made again.
        images: what it was made of: names of images and what their files held. The name of a volume is its place.
        origin: the DICOM series of which it is all or a part; empty for a volume.
        left: how many slices were left out by reason: it is tried again with them.
        numbers: index of each slice; a missing one leaves its number out.
        missing: slices that are missing between others.
        low, high: values that were clipped, of `values` in all.
        unknown: values that were no numbers.
    """

    series: str
    patient: str
    study: str
    dataset: str
    modality: str
    slope: float
    offset: int
    how: str
    images: dict[str, str]
    origin: str
    left: dict[str, int]
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int]
    numbers: tuple[int, ...]
    missing: int = 0
    plane: str = "axial"
    tilt_degrees: float = 0.0
    is_irregular: bool = False
    is_turned: bool = False
    is_lossy: bool = False
    values: int = 0
    low: int = 0
    high: int = 0
    unknown: int = 0
    has_air: bool = True
    format: int = FORMAT

    def rows(self) -> Iterator[dict[str, str]]:
        """The series' rows of the index."""
        spacing = [f"{mm:.6g}" for mm in self.spacing_mm]
        for number in self.numbers:
            path = f"{self.series}/{file_name(number)}"
            row = (path, self.series, str(number), " ".join(spacing), *spacing, self.dataset, self.patient, self.study)
            yield dict(zip(COLUMNS, row, strict=True))


class Store:
    """The folder of an import; one process at a time uses it."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._lock: io.TextIOWrapper | None = None

    def open(self, salt_check: str) -> None:
        """Make the folder, or go on with one that the same salt has begun; drafts of a killed import are removed.

        Raises:
            UsageError: it holds something else, was made with another salt, or is in use.
        """
        mark = self.out / MARK
        self.out.mkdir(parents=True, exist_ok=True)
        if not mark.exists() and any(self.out.iterdir()):
            raise UsageError(f"{self.out}: holds files that no import has made; choose a folder that is not there")
        self._lock = os.fdopen(os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{self.out}: another import is writing there; wait for it, or take another folder"
            ) from None
        if not os.fstat(self._lock.fileno()).st_size:  # a new folder
            self._lock.write(json.dumps({"format": FORMAT, "salt_check": salt_check}, indent=2) + "\n")
            self._lock.flush()
        facts = read_json(mark)
        if facts.get("format") != FORMAT:
            raise UsageError(f"{mark}: is no import of this version of bigrun; choose another folder")
        if facts.get("salt_check") != salt_check:
            raise UsageError(
                f"{self.out}: was imported with another salt, under which every patient had another name; give that "
                "one with --salt-file, or choose another folder"
            )
        for path in self.out.iterdir():
            if path.name.startswith((DRAFT, OLD)):
                shutil.rmtree(path)

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def records(self) -> dict[str, Record]:
        """Every complete series by its folder's name, in the order of the names."""
        found = {}
        for path in sorted(self.out.iterdir()):
            facts = read_json(path / FACTS) if path.is_dir() and not path.name.startswith(".") else {}
            if facts.get("format") == FORMAT:
                facts = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
                found[path.name] = Record(**facts)
        return found

    def require_alike(self, dataset: str, modality: str, slope: float, offset: int) -> None:
        """Raises: UsageError where series of the data set are there whose values are stored otherwise."""
        for record in self.records().values():
            there = (record.modality, record.slope, record.offset)
            if record.dataset == dataset and there != (modality, slope, offset):
                raise UsageError(
                    f"{self.out}: its data set {dataset!r} holds {record.modality} in steps of {record.slope:g}, got "
                    f"{modality} in steps of {slope:g}; one data set is read in one way: give those (--modality, "
                    "--scale), another --dataset, or another folder"
                )

    def remove(self, series: str) -> None:
        """Away with a series, whole or not at all."""
        old = self.out / f"{OLD}{series}"
        (self.out / series).rename(old)
        sync_directory(self.out)
        shutil.rmtree(old)

    def write_index(self, records: Collection[Record]) -> None:
        """The index of these series, whole or as it was before; without a column `patient` where nobody knows one."""
        known = [name for name in COLUMNS if name != "patient" or any(record.patient for record in records)]
        text = io.StringIO()
        writer = csv.DictWriter(text, known, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for record in records:
            writer.writerows(record.rows())
        replace_file(self.out / INDEX, text.getvalue())


def write_series(
    out: Path, name: str, slices: Iterable[tuple[int, npt.NDArray[np.uint16]]], finish: Callable[[], Record]
) -> Record:
    """Write the slices beside their place, and rename their folder into it.

    Args:
        finish: called after the last slice; its record is written with them. If it raises, all stays as it was.
    """
    draft, place, old = out / f"{DRAFT}{name}", out / name, out / f"{OLD}{name}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        for number, pixels in slices:
            write_png(draft / file_name(number), pixels)
        record = finish()
        (draft / FACTS).write_text(json.dumps(attrs.asdict(record)) + "\n", encoding="utf-8")
        sync(draft)
        if place.exists():  # made of other files before
            place.rename(old)
        draft.rename(place)
        sync_directory(out)
        return record
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def file_name(number: int) -> str:
    return f"{number:03d}.png"


def replace_file(path: Path, text: str, mode: int = 0o666) -> None:
    """The file has this text, or what it had before.

    Raises:
        OSError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    sync_directory(path.parent)


def read_json(path: Path) -> Mapping[str, Any]:
    """Nothing for a file that is not there or holds something else."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
