"""Why something was not imported."""

from __future__ import annotations

import attrs

__all__ = ["REASONS", "Refused", "Skip"]

REASONS = {
    "not-a-volume": "neither DICOM nor NIfTI nor NRRD",
    "not-a-file": "a pipe, a device, or a link to a folder",
    "unreadable": "damaged, cut short, or may not be read",
    "no-image": "DICOM without an image: a report, a plan, a directory",
    "modality": "of another modality than the one imported",
    "secondary-capture": "a picture of a screen or a report",
    "burned-in": "an image into which its header says that names are burned",
    "localizer": "an overview for planning the scan",
    "projection": "a projection through many slices (MIP)",
    "colour": "a colour or inverted image",
    "not-hounsfield": "values that are not in Hounsfield units",
    "no-geometry": "position, orientation or distances are missing",
    "not-axial": "a coronal, sagittal or oblique series",
    "not-3d": "not one volume: a flat image, or several volumes in a file",
    "detached": "a header whose values are in another file",
    "too-large": "larger than a scan can be",
    "no-decoder": "compressed in a way that needs another package",
    "copy": "a copy of an image that is there already",
    "same-position": "another image at the place of one that was taken",
    "part-of-series": "a part of a series of which more is in the data set: import a folder that holds all of it",
    "few-slices": "a series of fewer slices than --min-slices",
}
"""Every reason, and what it means. Nothing of a patient is in either."""


@attrs.frozen
class Skip:
    """Images that were left out for one reason.

    Attributes:
        paths: the files, for the private map only.
        detail: more about it, for the private map only: it may quote the file.
        series: it is all of a series.
        images: how many there are.
    """

    reason: str
    paths: tuple[str, ...]
    detail: str = ""
    series: bool = False
    images: int = 1

    def __attrs_post_init__(self) -> None:
        assert self.reason in REASONS


class Refused(Exception):
    """Raised by a reader that cannot or should not import what it reads."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}" if detail else reason)

    def skip(self, path: str, series: bool = False) -> Skip:
        """One file that was left out for it."""
        return Skip(self.reason, (path,), self.detail, series)
