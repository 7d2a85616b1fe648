"""Elements of a DICOM header, checked before anything is built on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bigrun_ct_import.skips import Refused

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["as_list", "look_up", "numbers", "optional_mm", "patient_of", "require_axes", "rescale"]

TRANSFORMATION = "PixelValueTransformationSequence"


def look_up(header: Dataset, frame: int | None, keyword: str, sequences: Sequence[str] = ()) -> Any:
    """An element of the frame, of all frames, or of the file, in this order; None where there is none.

    Args:
        frame: its number in a file that has functional groups; None in a file of one image.
        sequences: where in the functional groups it may stand.
    """
    if frame is not None:
        shared = header.get("SharedFunctionalGroupsSequence") or [{}]
        for group in (header.PerFrameFunctionalGroupsSequence[frame], shared[0]):
            for sequence in sequences:
                items = group.get(sequence)
                found = items[0].get(keyword) if items else None
                if found is not None:
                    return found
    return header.get(keyword)


def rescale(value: Callable[..., Any], modality: str) -> tuple[float, float]:
    """Slope and intercept.

    Raises:
        Refused: for CT, where they do not lead to Hounsfield units; for anything, where they are no numbers.
    """
    slope, intercept = value("RescaleSlope", TRANSFORMATION), value("RescaleIntercept", TRANSFORMATION)
    if modality == "CT":
        unit = str(value("RescaleType", TRANSFORMATION) or "HU").strip().upper()
        if slope is None or intercept is None or value("ModalityLUTSequence"):
            raise Refused("not-hounsfield", "no rescale slope and intercept")
        if unit not in ("HU", "US"):  # US is "unspecified", which for CT means HU (DICOM PS3.3 C.11.1.1.2)
            raise Refused("not-hounsfield", f"rescale type {unit}")
    pair = (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
    if not all(map(math.isfinite, pair)) or pair[0] == 0:
        raise Refused("not-hounsfield", f"rescale slope and intercept {pair}")
    return pair


def patient_of(header: Dataset, study: str) -> str:
    """What stands for the patient: the number; name and birth date where there is none; else the study.

    Whose number it is (IssuerOfPatientID) does not count: it is missing in half of an archive, and to take two patients
    for one does no harm to a split, the other way round does.
    """
    number = str(header.get("PatientID") or "").strip()
    if number:
        return f"id\n{number}"
    name, born = str(header.get("PatientName") or "").strip(), str(header.get("PatientBirthDate") or "").strip()
    return f"name\n{name}\n{born}" if name else f"study\n{study}"


def numbers(found: Any, count: int, what: str) -> tuple[float, ...]:
    """Raises: Refused unless there are so many finite numbers."""
    values = tuple(float(number) for number in as_list(found))
    if len(values) != count or not all(map(math.isfinite, values)):
        raise Refused("no-geometry", f"{what}: {found}")
    return values


def require_axes(orientation: Sequence[float]) -> None:
    """Raises: Refused unless the two directions are of length 1 and at right angles, within a hundredth."""
    row, column = orientation[:3], orientation[3:]
    lengths = (math.hypot(*row), math.hypot(*column))
    product = sum(a * b for a, b in zip(row, column, strict=True))
    if max(abs(length - 1) for length in lengths) > 0.01 or abs(product) > 0.01:
        raise Refused("no-geometry", f"orientation {tuple(orientation)}")


def optional_mm(found: Any) -> float | None:
    """A distance that makes sense, or None; the sign of SpacingBetweenSlices says nothing here."""
    try:
        distance = abs(float(found))
    except (TypeError, ValueError):
        return None
    return distance if 0 < distance < math.inf else None


def as_list(found: Any) -> list[Any]:
    """The values of an element, however many there are."""
    if found is None or isinstance(found, str):
        return [found] if found else []
    try:
        return list(found)
    except TypeError:
        return [found]
