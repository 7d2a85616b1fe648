"""Whether a DICOM file has all of its pixels, found out without reading them.

A file that was cut short has a whole header. It must not stand in the place of a good copy of it.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

__all__ = ["lacks_pixels"]

ITEM = (0xFFFE, 0xE000)
UNDEFINED = 0xFFFFFFFF


def lacks_pixels(file: BinaryIO, header: FileDataset) -> bool:
    """Whether there are fewer bytes of pixels than the file says (DICOM PS3.5, 7.1 and A.4), or none.

    Args:
        file: where reading its header has stopped: at its pixels, or at its end.
    """
    if getattr(header.file_meta.get("TransferSyntaxUID"), "is_deflated", False):
        return False  # its header was read from what was inflated: that would have failed
    order = "<" if header.original_encoding[1] else ">"
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    is_explicit = start[4:6] in (b"OB", b"OW", b"UN")  # also where a header of the other kind comes before
    end = file.read(4) if is_explicit else start[4:]
    if len(end) < 4:
        return True
    length: int = struct.unpack(f"{order}I", end)[0]
    if length != UNDEFINED:
        return file.tell() + length > size
    while len(item := file.read(8)) == 8:
        group, element, length = struct.unpack(f"{order}HHI", item)
        if (group, element) != ITEM:
            break
        if file.seek(length, os.SEEK_CUR) > size:
            return True
    return False
