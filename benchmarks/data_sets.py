"""Files for benchmarks/data.py and data_wait.py: photographs as JPEG and PNG, series of 16-bit CT slices."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bigrun_demo.photos import PhotoTiles, load_photos

__all__ = ["link_series", "made_up_ct", "packed", "write_photos"]

SIDE_PX = 512
SLICES = 48
COLUMNS = ("png_path", "series_dir", "slice_index", "spacing_x", "spacing_y", "spacing_z")


def write_photos(folder: Path, count: int = 8) -> None:
    """The same tiles of photographs (512 px) as JPEG of quality 90 and as PNG."""
    tiles = PhotoTiles(load_photos(), SIDE_PX, SIDE_PX)
    for number in np.linspace(0, len(tiles) - 1, count).round().astype(int).tolist():
        picture = Image.fromarray(tiles[number].permute(1, 2, 0).numpy())
        for kind, settings in (("jpg", {"quality": 90}), ("png", {})):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            picture.save(folder / kind / f"{number:04d}.{kind}", **settings)


def made_up_ct(folder: Path) -> Path:
    """A series of smooth tissue with noise of 15 HU, which compresses about as a real slice does."""
    random = np.random.default_rng(0)
    down, across = np.mgrid[-1 : 1 : 1j * SIDE_PX, -1 : 1 : 1j * SIDE_PX]  # type: ignore[misc]
    (folder / "series").mkdir(parents=True)
    rows = []
    for z in range(SLICES):
        body = (down**2 + across**2 / 0.7) < 0.8
        lung = ((down**2 + (np.abs(across) - 0.4) ** 2) < 0.09 + 0.001 * z) & body
        hu = np.where(body, np.where(lung, -800.0, 40.0), -1000.0) + random.normal(0, 15, body.shape) * body
        values = np.round(hu.clip(-1024, 3071) / 0.1).astype(np.int64) + 32768
        name = f"series/{z:03d}.png"
        Image.fromarray(values.astype(np.uint16)).save(folder / name)
        rows.append((name, "series", z, 0.7, 0.7, 5.0))
    write_index(folder, rows)
    return folder


def link_series(source: Path, folder: Path, series: int) -> int:
    """So many series, the source's again and again under other names; returns the number of slices. Both folders are on
    one file system, or the slices are copied."""
    with (source / "index.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    names = sorted({row["series_dir"] for row in found})
    rows = []
    for copy in range(series):
        name = f"s{copy:05d}"
        (folder / name).mkdir(parents=True)
        for row in (row for row in found if row["series_dir"] == names[copy % len(names)]):
            path = f"{name}/{Path(row['png_path']).name}"
            link_or_copy(source / row["png_path"], folder / path)
            rows.append((path, name, row["slice_index"], *(row.get(column, "") for column in COLUMNS[3:])))
    write_index(folder, rows)
    return len(rows)


def link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def write_index(folder: Path, rows: Sequence[Sequence[object]]) -> None:
    with (folder / "index.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def packed(source: Path, out: Path, *options: str) -> Path:
    """`bigrun data pack`."""
    subprocess.run(
        [sys.executable, "-m", "bigrun", "data", "pack", str(source), str(out), *options],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return out
