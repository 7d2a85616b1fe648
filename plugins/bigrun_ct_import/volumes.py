"""NIfTI and NRRD files: one volume each, turned to axial slices without resampling."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import attrs
import numpy as np
import numpy.typing as npt

from bigrun_ct_import.content import unreadable
from bigrun_ct_import.geometry import AXIAL_DEGREES, nearest_axes, tilt_degrees
from bigrun_ct_import.skips import Refused

__all__ = ["AIR_FRACTION", "AIR_HU", "Volume", "read_volume", "require_hounsfield"]

MOST_VALUES = 1 << 31
"""Four gigabytes of 16-bit values: 8,000 slices of 512 x 512."""
AIR_HU = -500.0
AIR_FRACTION = 0.005
LOOKED_AT = 1_000_000

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
SPACES = {
    "left-posterior-superior": np.diag([1.0, 1.0, 1.0]),
    "right-anterior-superior": RAS_TO_LPS,
    "left-anterior-superior": np.diag([1.0, -1.0, 1.0]),
}
SHORT = {"lps": "left-posterior-superior", "ras": "right-anterior-superior", "las": "left-anterior-superior"}
MILLIMETRES = {"": 1.0, "mm": 1.0, "millimeter": 1.0, "unknown": 1.0, "cm": 10.0, "m": 1e3, "meter": 1e3, "um": 1e-3,
               "micron": 1e-3}  # fmt: skip


@attrs.frozen(eq=False)
class Volume:
    """A volume as its file holds it, and how its axes run.

    Attributes:
        stored: (n0, n1, n2) in the order of the file's axes; `stored * slope + intercept` is the value.
        axes: the axis that runs nearest to x (left), y (back) and z (head) of the patient.
        reverse: which of x, y and z are stored the other way round.
        spacing_mm: along x, y, z.
    """

    stored: npt.NDArray[Any]
    slope: float
    intercept: float
    axes: tuple[int, int, int]
    reverse: tuple[bool, bool, bool]
    spacing_mm: tuple[float, float, float]
    tilt_degrees: float

    @property
    def plane(self) -> str:
        """What the slices are that it is cut into."""
        return "axial" if self.tilt_degrees <= AXIAL_DEGREES else "oblique"

    @property
    def is_turned(self) -> bool:
        """Whether slices, rows or columns are other than the file's."""
        return self.axes != (0, 1, 2) or any(self.reverse)

    def slices(self) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
        """(index, (H, W) values) from the feet to the head: columns go to the left, rows to the back."""
        x, y, z = self.axes
        steps = [slice(None, None, -1 if reverse else 1) for reverse in self.reverse]
        turned = self.stored.transpose(z, y, x)[steps[2], steps[1], steps[0]]
        for index, pixels in enumerate(turned):
            yield index, pixels.astype(np.float64) * self.slope + self.intercept


def read_volume(path: Path, kind: str) -> Volume:
    """
    Args:
        kind: `nifti` or `nrrd`.

    Raises:
        Refused: it is no single volume, does not say how it lies, or cannot be read.
        BigrunError: see `unreadable`.
    """
    try:
        with path.open("rb") as file:
            return read_nifti(file) if kind == "nifti" else read_nrrd(file)
    except Refused:
        raise
    except Exception as error:  # a reader of hostile bytes may raise anything
        raise unreadable(str(path), error) from None


def read_nifti(file: BinaryIO) -> Volume:
    import nibabel

    is_packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream = gzip.GzipFile(fileobj=file) if is_packed else cast(io.IOBase, file)
    first = stream.read(8)
    stream.seek(0)
    is_second = 540 in (int.from_bytes(first[:4], "little"), int.from_bytes(first[:4], "big"))
    image = (nibabel.Nifti2Image if is_second else nibabel.Nifti1Image).from_stream(stream)
    header: Any = image.header
    if bytes(header["magic"]).startswith(b"ni"):
        raise Refused("detached")
    if not header["sform_code"] and not header["qform_code"]:
        raise Refused("no-geometry", "sform_code and qform_code are 0: nothing says how the volume lies")
    shape = image.shape[:3] if all(length == 1 for length in image.shape[3:]) else image.shape
    require_shape(shape)
    proxy: Any = image.dataobj
    unit = header.get_xyzt_units()[0]
    directions = RAS_TO_LPS @ np.asarray(image.affine)[:3, :3] * millimetres(unit)
    return laid(proxy.get_unscaled().reshape(shape), directions, float(proxy.slope), float(proxy.inter))


def read_nrrd(file: BinaryIO) -> Volume:
    import nrrd

    header = nrrd.read_header(file)
    if any(name in header for name in ("data file", "datafile")):
        raise Refused("detached")
    space = str(header.get("space", "")).lower()
    to_lps = SPACES.get(SHORT.get(space, space))
    if to_lps is None or "space directions" not in header:
        raise Refused("no-geometry", f"space {space!r}, directions {'space directions' in header}")
    require_shape(tuple(int(n) for n in header["sizes"]))
    vectors = np.asarray(header["space directions"], dtype=np.float64)
    if vectors.shape != (3, 3):
        raise Refused("not-3d", f"space directions {vectors.shape}")
    units = header.get("space units") or [""]
    stored = nrrd.read_data(header, file)
    return laid(stored, to_lps @ vectors.T * millimetres(str(units[0])), 1.0, 0.0)


def laid(stored: npt.NDArray[Any], directions: npt.NDArray[np.float64], slope: float, intercept: float) -> Volume:
    """The volume with its axes named; `directions` (3, 3) are in mm, column k of the volume's axis k.

    Raises: Refused where they span no space, or the values are no real numbers.
    """
    if stored.dtype.kind not in "iuf":
        raise Refused("colour", f"values of type {stored.dtype}")
    lengths = np.linalg.norm(directions, axis=0)
    if not np.isfinite(directions).all() or lengths.min() <= 0 or abs(np.linalg.det(directions / lengths)) < 0.5:
        raise Refused("no-geometry", f"directions {directions.tolist()}")
    if not (math.isfinite(slope) and math.isfinite(intercept) and slope):
        raise Refused("not-hounsfield", f"slope {slope}, intercept {intercept}")
    axes, reverse = nearest_axes(directions)
    normal = np.cross(directions[:, axes[0]], directions[:, axes[1]])
    x, y, z = (float(lengths[axis]) for axis in axes)
    return Volume(stored, slope, intercept, axes, reverse, (x, y, z), tilt_degrees(normal / np.linalg.norm(normal)))


def require_shape(shape: tuple[int, ...]) -> None:
    """Raises: Refused unless it is one volume, of a size that scans have."""
    if len(shape) != 3 or min(shape) < 1:
        raise Refused("not-3d", f"shape {shape}")
    if math.prod(shape) > MOST_VALUES:
        raise Refused("too-large", f"shape {shape}")


def millimetres(unit: str) -> float:
    """Raises: Refused for a unit that nobody knows."""
    factor = MILLIMETRES.get(unit.strip().lower())
    if factor is None:
        raise Refused("no-geometry", f"unit {unit!r}")
    return factor


def require_hounsfield(volume: Volume) -> None:
    """NIfTI and NRRD do not say what their values are, but around a body in a CT there is air, at -1000 HU.

    Raises: Refused where fewer than 0.5 % of the values are below -500.
    """
    step = max(1, math.ceil((volume.stored.size / LOOKED_AT) ** (1 / 3)))
    values = volume.stored[::step, ::step, ::step].astype(np.float64) * volume.slope + volume.intercept
    values = values[np.isfinite(values)]
    if values.size == 0 or float((values < AIR_HU).mean()) < AIR_FRACTION:
        found = f"values from {values.min():g} to {values.max():g}" if values.size else "no finite value"
        raise Refused("not-hounsfield", f"{found}: hardly any below {AIR_HU:g}, where air is")
