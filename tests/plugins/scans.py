"""Synthetic scans: DICOM slices whose values tell where in the patient they were taken."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from click.testing import CliRunner, Result
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from bigrun.cli import main

__all__ = [
    "AXIAL",
    "PATIENT",
    "Scan",
    "hounsfield",
    "read_index",
    "read_slices",
    "report",
    "run_import",
    "skipped",
    "succeed",
]

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
PATIENT = {"PatientName": "Mustermann^Erika", "PatientID": "HOSP-0815", "PatientBirthDate": "19641231"}


def hounsfield(x: Any, y: Any, z: Any) -> npt.NDArray[np.float64]:
    """The phantom: whole numbers of HU at whole numbers of mm, another at every place near 0, some below -500."""
    return np.asarray(-700 + 2 * x + 30 * y + 7 * z, dtype=np.float64)


class Scan:
    """A series of slices of the phantom.

    Args:
        orientation, spacing_mm, shape: of every slice.
        header: elements that are other than usual.
    """

    def __init__(
        self,
        folder: Path,
        orientation: Sequence[float] = AXIAL,
        spacing_mm: tuple[float, float] = (2.0, 1.0),
        shape: tuple[int, int] = (6, 9),
        **header: Any,
    ) -> None:
        self.folder = folder
        self.orientation = tuple(float(value) for value in orientation)
        self.spacing_mm = spacing_mm
        self.shape = shape
        self.header = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid(), **PATIENT, **header}
        self.count = 0

    def values(self, position: Sequence[float]) -> npt.NDArray[np.float64]:
        """(H, W) HU of a slice whose first pixel is at `position`."""
        along_row, along_column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        row, column = np.mgrid[: self.shape[0], : self.shape[1]]
        steps = column[..., None] * self.spacing_mm[1] * along_row + row[..., None] * self.spacing_mm[0] * along_column
        return hounsfield(*np.moveaxis(np.array(position) + steps, -1, 0))

    def add(self, position: Sequence[float], name: str | None = None, slope: float = 1.0, intercept: float = -1024.0,
            **header: Any) -> Path:  # fmt: skip
        """Write one slice; elements given as None are left out."""
        self.count += 1
        stored = np.rint((self.values(position) - intercept) / slope)
        assert np.abs(stored).max() < 1 << 15
        facts: dict[str, Any] = {
            "SOPClassUID": CTImageStorage, "SOPInstanceUID": generate_uid(), "Modality": "CT",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "InstanceNumber": self.count,
            "ImagePositionPatient": [float(value) for value in position],
            "ImageOrientationPatient": list(self.orientation), "PixelSpacing": list(self.spacing_mm),
            "SliceThickness": 9.0, "RescaleSlope": slope, "RescaleIntercept": intercept, "RescaleType": "HU",
            **self.header, **header,
        }  # fmt: skip
        return save(self.folder / (name or f"{self.count}.dcm"), facts, stored.astype(np.int16))

    def add_enhanced(self, positions: Sequence[Sequence[float]], name: str = "enhanced.dcm") -> Path:
        """Write slices as the frames of one file, whose geometry is in functional groups."""
        stored = np.stack([self.values(position) + 1024 for position in positions]).astype(np.int16)
        frames = [group(PlanePositionSequence={"ImagePositionPatient": list(position)}) for position in positions]
        shared = group(
            PlaneOrientationSequence={"ImageOrientationPatient": list(self.orientation)},
            PixelMeasuresSequence={"PixelSpacing": list(self.spacing_mm), "SliceThickness": 9.0},
            PixelValueTransformationSequence={"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"},
        )
        facts = {
            "SOPClassUID": EnhancedCTImageStorage, "SOPInstanceUID": generate_uid(), "Modality": "CT",
            "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "NumberOfFrames": len(frames),
            "SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames, **self.header,
        }  # fmt: skip
        return save(self.folder / name, facts, stored)


def group(**sequences: dict[str, Any]) -> Dataset:
    made = Dataset()
    for name, facts in sequences.items():
        item = Dataset()
        for keyword, value in facts.items():
            setattr(item, keyword, value)
        setattr(made, name, [item])
    return made


def save(path: Path, facts: dict[str, Any], stored: npt.NDArray[np.int16]) -> Path:
    made = Dataset()
    for keyword, value in facts.items():
        if value is not None:
            setattr(made, keyword, value)
    made.Rows, made.Columns = facts.get("Rows", stored.shape[-2]), facts.get("Columns", stored.shape[-1])
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, facts.get("PhotometricInterpretation", "MONOCHROME2")
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
    made.PixelData = stored.tobytes()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_as(path, enforce_file_format=True)
    return path


def run_import(*words: object) -> Result:
    """`bigrun data import` in this process."""
    return CliRunner().invoke(main, ["data", "import", *map(str, words)])


def succeed(*words: object) -> str:
    """What an import prints that must succeed."""
    done = run_import(*words)
    assert done.exit_code == 0, done.output
    return done.output


def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "import-report.json").read_text())


def skipped(out: Path) -> dict[str, int]:
    """Images by the reason why they were left out."""
    return {reason: facts["images"] for reason, facts in report(out)["skipped"].items()}


def read_index(out: Path) -> list[dict[str, str]]:
    with (out / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read_slices(out: Path, series: str | None = None) -> dict[int, npt.NDArray[np.float64]]:
    """slice_index -> (H, W) HU of one series, read as the documentation says."""
    rows = [row for row in read_index(out) if series in (None, row["series_dir"])]
    assert len({row["series_dir"] for row in rows}) == 1
    found = {}
    for row in rows:
        with Image.open(out / row["png_path"]) as image:
            assert image.mode == "I;16"
            found[int(row["slice_index"])] = np.round((np.array(image).astype(np.float64) - 32768) * 0.1, 3)
    return found
