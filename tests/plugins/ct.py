"""A small synthetic CT: series of 16-bit slices with an index.csv, made in a tenth of a second."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["COLUMNS", "Scan", "body_hu", "encode", "two_data_sets", "write_ct"]

COLUMNS = ("png_path", "series_dir", "slice_index", "spacing_x", "spacing_y", "spacing_z")


@attrs.frozen
class Scan:
    """One series."""

    name: str
    slices: Sequence[int]
    """Its slice indices, in the order of the table's rows."""
    dataset: str = ""
    patient: str = ""
    size: int = 32
    slope: float = 0.1
    offset: float = 32768
    spacing: tuple[float, float, float] = (0.7, 0.8, 5.0)


def body_hu(scan: Scan, index: int) -> npt.NDArray[np.float64]:
    """(size, size) HU: an ellipse of tissue with two lungs in air, wider from slice to slice."""
    y, x = (np.mgrid[0 : scan.size, 0 : scan.size] + 0.5) / scan.size - 0.5
    wide = 0.3 + 0.1 * np.sin(index / 3 + len(scan.name))
    hu = np.where((x / wide) ** 2 + (y / 0.3) ** 2 < 1, 40.0 + 3 * index, -1000.0)
    for side in (-1, 1):
        hu[((x - side * wide / 2) / 0.1) ** 2 + (y / 0.15) ** 2 < 1] = -850.0
    return hu


def encode(hu: npt.NDArray[np.float64], slope: float, offset: float) -> npt.NDArray[np.uint16]:
    """As stored: round(HU / slope) + offset."""
    return np.clip(np.rint(hu / slope) + offset, 0, 65535).astype(np.uint16)


def write_ct(root: Path, scans: Sequence[Scan], columns: Sequence[str] = COLUMNS) -> Path:
    """The slices as PNG, and their table; returns `root`."""
    rows = []
    for scan in scans:
        (root / scan.name).mkdir(parents=True, exist_ok=True)
        for index in scan.slices:
            path = f"{scan.name}/{index:03d}.png"
            Image.fromarray(encode(body_hu(scan, index), scan.slope, scan.offset)).save(root / path, compress_level=1)
            x, y, z = scan.spacing
            facts = {
                "png_path": path, "series_dir": scan.name, "slice_index": index, "spacing": f"{x} {y} {z}",
                "spacing_x": x, "spacing_y": y, "spacing_z": z, "dataset": scan.dataset, "patient": scan.patient,
            }  # fmt: skip
            rows.append([facts[name] for name in columns])
    with (root / "index.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return root


def two_data_sets(root: Path) -> Path:
    """Two series of the usual encoding, one of them with a gap, and two of another."""
    return write_ct(
        root,
        [
            Scan("a/one", range(6), dataset="tenth", patient="p1"),
            Scan("a/two", [3, 1, 2, 0, 6, 7], dataset="tenth", patient="p1", spacing=(0.5, 0.5, 2.5)),
            Scan("b/three", range(10, 14), dataset="whole", patient="p2", slope=1, offset=1024),
            Scan("b/four", [5], dataset="whole", patient="p3", slope=1, offset=1024),
        ],
        (*COLUMNS, "dataset", "patient"),
    )
