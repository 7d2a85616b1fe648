"""The values of a DICOM plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bigrun_ct_import.content import unreadable
from bigrun_ct_import.skips import Refused

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

    from bigrun_ct_import.planes import Plane

__all__ = ["PixelReader"]


class PixelReader:
    """Reads planes one after another; a file of many frames is read once, and is in memory until the next file."""

    def __init__(self) -> None:
        self._path = ""
        self._file: FileDataset | None = None

    def read(self, plane: Plane) -> npt.NDArray[np.float64]:
        """(H, W) in the units of the rescale, Hounsfield units for CT.

        Raises:
            Refused: the file cannot be read or decoded, or its values are not as many as the header says.
            BigrunError: see `unreadable`.
        """
        from pydicom.pixels.utils import pixel_array

        try:
            stored = pixel_array(self._open(plane), index=plane.frame, raw=True)
        except Exception as error:  # a decoder of hostile bytes may raise anything
            raise unreadable(plane.path, error) from None
        if stored.shape != plane.shape:
            raise Refused("unreadable", f"{stored.shape} values, and the header says {plane.shape}")
        return stored.astype(np.float64) * plane.slope + plane.intercept

    def _open(self, plane: Plane) -> FileDataset:
        import pydicom

        if self._file is None or self._path != plane.path:
            self._file = pydicom.dcmread(plane.path, force=True)
            self._path = plane.path
            name_transfer_syntax(self._file)
        return self._file


def name_transfer_syntax(file: FileDataset) -> None:
    """A bare data set does not say how it is encoded; the reader has found out."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in file.file_meta:
        is_implicit, is_little = file.original_encoding
        explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
        file.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
