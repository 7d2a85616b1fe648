"""Where slices lie in the patient, and how to turn them to one convention without resampling.

Coordinates are DICOM's: x to the patient's left, y to the back, z to the head, in mm. The convention of what is written
is that of an axial DICOM slice of a patient on the back: columns go to the left, rows to the back, slices to the head.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs
import numpy as np
import numpy.typing as npt

__all__ = ["AXIAL_DEGREES", "Turn", "nearest_axes", "normal_of", "plane_name", "tilt_degrees", "turn_of_plane"]

AXIAL_DEGREES = 35.0
"""A gantry tilts by 30 degrees at most."""

Vector = npt.NDArray[np.float64]  # or a slice: any shape


@attrs.frozen
class Turn:
    """Exact steps that bring a slice (rows, columns) to the convention: transposed first, then flipped."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def __call__(self, pixels: Vector) -> Vector:
        """(H, W) as a view of the same values, (W, H) where it is transposed."""
        if self.transpose:
            pixels = pixels.T
        return pixels[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    @property
    def changes(self) -> bool:
        return self.transpose or self.flip_rows or self.flip_columns


def normal_of(orientation: Sequence[float]) -> Vector:
    """The unit normal (3,) of a slice with ImageOrientationPatient `orientation` (6,), on the side of the head; of the
    back, then of the left, where the slice stands upright."""
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    normal: Vector = np.cross(along_row, along_column)
    normal /= np.linalg.norm(normal)
    largest = int(np.argmax(np.abs(normal)))
    return normal if normal[largest] > 0 else -normal


def tilt_degrees(normal: Vector) -> float:
    """The angle between a normal (3,) and the axis of the body, 0 to 90."""
    return float(np.degrees(np.arccos(np.clip(abs(normal[2]), 0, 1))))


def plane_name(normal: Vector) -> str:
    """`axial` up to the tilt of a gantry, `coronal` or `sagittal` within the same angle, else `oblique`."""
    names = ("sagittal", "coronal", "axial")
    axis = int(np.argmax(np.abs(normal)))
    angle = np.degrees(np.arccos(np.clip(abs(normal[axis]), 0, 1)))
    return names[axis] if angle <= AXIAL_DEGREES else "oblique"


def turn_of_plane(orientation: Sequence[float]) -> Turn:
    """How an axial slice with ImageOrientationPatient `orientation` (6,) gets its columns to the left and its rows to
    the back."""
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    transpose = bool(abs(along_row[0]) < abs(along_column[0]))
    if transpose:
        along_row, along_column = along_column, along_row
    return Turn(transpose, bool(along_column[1] < 0), bool(along_row[0] < 0))


def nearest_axes(directions: Vector) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Which axis of a volume runs nearest to x, y and z of the patient, and which of the three run against it.

    Args:
        directions: (3, 3), column k is the direction of the volume's axis k.

    Returns:
        (axis for x, axis for y, axis for z), (x reversed, y reversed, z reversed).
    """
    units = directions / np.linalg.norm(directions, axis=0)

    def agreement(axes: tuple[int, ...]) -> float:
        return float(sum(abs(units[row, axis]) for row, axis in enumerate(axes)))

    x, y, z = max(itertools.permutations(range(3)), key=agreement)
    return (x, y, z), (bool(units[0, x] < 0), bool(units[1, y] < 0), bool(units[2, z] < 0))
