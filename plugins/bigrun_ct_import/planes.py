"""The header of a DICOM file: one plane, or one for each frame."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun_ct_import.content import digest, unreadable
from bigrun_ct_import.elements import as_list, look_up, numbers, optional_mm, patient_of, require_axes, rescale
from bigrun_ct_import.skips import Refused, Skip
from bigrun_ct_import.whole import lacks_pixels

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Plane", "quiet", "read_planes"]

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
MOST_PIXELS = 1 << 26  # 8192 x 8192: scanners make 512 x 512, some 2048 x 2048
LOCALIZER = {"LOCALIZER", "SCOUT", "SCOUT MODE", "TOPOGRAM"}
PROJECTION = {"MIP", "MINIP", "CSA MIP", "PROJECTION IMAGE", "VRT", "VOLUME_RENDERING", "MAX_IP", "MIN_IP"}
MAPS = {"PERFUSION", "CBF", "CBV", "RBF", "RBV", "RCBF", "RCBV", "MTT", "TTP", "TMAX", "PBV"}
"""Derived from scans over time, in millilitres, seconds and the like. Of an original image PERFUSION says what for."""
SCREEN = {"SCREEN SAVE", "DOSE_INFO", "DOSE"}

TAGS = [
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "PatientID", "PatientName",
    "PatientBirthDate", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber",
    "AcquisitionNumber", "TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "SliceThickness", "Rows", "Columns",
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "RescaleSlope", "RescaleIntercept",
    "RescaleType", "ModalityLUTSequence", "LossyImageCompression", "BurnedInAnnotation",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


@attrs.frozen
class Plane:
    """One slice as its header describes it. Identifiers are the patient's own: they never leave memory.

    Attributes:
        frame: its number in a file of several, from 0; None in a file of one.
        content: SHA-256 of the file.
        is_cut: the end of the file is missing.
        spacing_mm: between rows, and between columns.
        orientation: directions of a row and of a column, (6,).
        position_mm: the centre of the first pixel, (3,).
        phase: what tells series apart that share a number: acquisition, time, phase of the heart.
        between_mm, thickness_mm: what the header says of the third direction, if anything.
    """

    path: str
    frame: int | None
    content: bytes
    is_cut: bool
    image: str
    instance: int
    patient: str
    study: str
    series: str
    shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    orientation: tuple[float, ...]
    position_mm: tuple[float, ...]
    phase: tuple[str, ...]
    between_mm: float | None
    thickness_mm: float | None
    slope: float
    intercept: float
    is_lossy: bool


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Readers' warnings are not printed: they quote headers. What is wrong is counted by reason instead."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "nibabel.global")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def read_planes(task: tuple[Sequence[str], str]) -> tuple[list[Plane], list[Skip]]:
    """The planes of some files of one modality, and the files that have none; for a process of a pool.

    Raises: BigrunError, see `unreadable`.
    """
    paths, modality = task
    planes: list[Plane] = []
    skips: list[Skip] = []
    with quiet():
        for path in paths:
            try:
                planes += planes_of(path, modality)
            except Refused as refused:
                skips.append(refused.skip(path))
            except Exception as error:  # a reader of hostile bytes may raise anything
                skips.append(unreadable(path, error).skip(path))
    return planes, skips


def planes_of(path: str, modality: str) -> list[Plane]:
    """Raises: Refused, or whatever the reader raises."""
    import pydicom

    with Path(path).open("rb") as file:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS, force=True)
        require_image(header, modality)
        require_decoder(header)
        is_cut = lacks_pixels(file, header)
    content = digest(path)
    if "PerFrameFunctionalGroupsSequence" in header:
        frames = len(header.PerFrameFunctionalGroupsSequence)
        return [plane_of(header, path, content, is_cut, frame, modality) for frame in range(frames)]
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise Refused("no-geometry", "several frames without a position each")
    return [plane_of(header, path, content, is_cut, None, modality)]


def require_image(header: Dataset, modality: str) -> None:
    """Raises: Refused for what is no slice of a scan."""
    kinds = {str(kind).strip().upper() for kind in as_list(header.get("ImageType"))}
    sop_class = str(header.get("SOPClassUID", ""))
    if not header.get("Rows") or not header.get("Columns"):
        raise Refused("no-image", sop_class)
    if sop_class == SECONDARY_CAPTURE or sop_class.startswith(SECONDARY_CAPTURE + ".") or kinds & SCREEN:
        raise Refused("secondary-capture")
    if str(header.get("Modality", "")) != modality:
        raise Refused("modality", str(header.get("Modality")))
    if str(header.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        raise Refused("burned-in")
    if kinds & LOCALIZER:
        raise Refused("localizer")
    if kinds & PROJECTION:
        raise Refused("projection", ", ".join(sorted(kinds & PROJECTION)))
    if modality == "CT" and "DERIVED" in kinds and kinds & MAPS:
        raise Refused("not-hounsfield", f"a map of {', '.join(sorted(kinds & MAPS))}")
    if int(header.get("SamplesPerPixel") or 1) != 1 or header.get("PhotometricInterpretation") != "MONOCHROME2":
        raise Refused("colour", str(header.get("PhotometricInterpretation")))
    if int(header.Rows) * int(header.Columns) > MOST_PIXELS:
        raise Refused("too-large", f"{header.Rows} x {header.Columns}")
    if not header.get("SeriesInstanceUID"):
        raise Refused("no-geometry", "no SeriesInstanceUID")


def require_decoder(header: Dataset) -> None:
    """Raises: Refused for a compressed form that no installed package decodes, naming what would."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = header.file_meta.get("TransferSyntaxUID") if hasattr(header, "file_meta") else None
    if syntax is None or not syntax.is_compressed or not syntax.is_encapsulated:
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise Refused("no-decoder", syntax.name) from None
    if not decoder.is_available:
        raise Refused("no-decoder", f"{syntax.name}: {'; '.join(decoder.missing_dependencies)}")


def plane_of(header: Dataset, path: str, content: bytes, is_cut: bool, frame: int | None, modality: str) -> Plane:
    """Raises: Refused where geometry or units are not there; ValueError for a number that is none."""

    def value(keyword: str, *sequences: str) -> Any:
        return look_up(header, frame, keyword, sequences)

    slope, intercept = rescale(value, modality)
    position = numbers(value("ImagePositionPatient", "PlanePositionSequence"), 3, "position")
    orientation = numbers(value("ImageOrientationPatient", "PlaneOrientationSequence"), 6, "orientation")
    spacing = numbers(value("PixelSpacing", "PixelMeasuresSequence"), 2, "pixel spacing")
    require_axes(orientation)
    if min(spacing) <= 0:
        raise Refused("no-geometry", f"pixel spacing {spacing}")
    study = str(header.get("StudyInstanceUID") or header.SeriesInstanceUID)
    frame_content = ("FrameContentSequence",)
    return Plane(
        path=path,
        frame=frame,
        content=content,
        is_cut=is_cut,
        image=f"{header.get('SOPInstanceUID') or content.hex()}#{frame}",
        instance=int(header.get("InstanceNumber") or 0),
        patient=patient_of(header, study),
        study=study,
        series=str(header.SeriesInstanceUID),
        shape=(int(header.Rows), int(header.Columns)),
        spacing_mm=(spacing[0], spacing[1]),
        orientation=orientation,
        position_mm=position,
        phase=tuple(
            str(found)
            for found in (
                value("FrameAcquisitionNumber", *frame_content) or value("AcquisitionNumber"),
                value("TemporalPositionIndex", *frame_content) or value("TemporalPositionIdentifier"),
                value("NominalPercentageOfCardiacPhase", "CardiacSynchronizationSequence"),
            )
        ),
        between_mm=optional_mm(value("SpacingBetweenSlices", "PixelMeasuresSequence")),
        thickness_mm=optional_mm(value("SliceThickness", "PixelMeasuresSequence")),
        slope=slope,
        intercept=intercept,
        is_lossy=header.get("LossyImageCompression") == "01",
    )
