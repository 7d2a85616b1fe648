"""index.csv: one row for every slice."""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from bigrun.data.faults import BadImageError
from bigrun.data.files import Entry
from bigrun.data.files.entry import Value
from bigrun.data.files.paths import locate
from bigrun.errors import NoImagesError, UsageError

__all__ = ["INDEX", "fingerprint", "read_index"]

INDEX = "index.csv"
REQUIRED = ("png_path", "series_dir", "slice_index")
TEXTS = ("dataset", "patient", "study")
AXES = ("spacing_x", "spacing_y", "spacing_z")
SEPARATORS = {"semicolons": ";", "tabs": "\t"}
SHOWN = 10

FORM = "a table with the columns png_path, series_dir, slice_index and, if known, spacing, dataset, patient, study"


def fingerprint(path: Path) -> str:
    """Changes when the table does."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_index(path: Path) -> Iterator[Entry]:
    """The slices in the order of the table's rows.

    A row whose path leads out of the folder is an entry with a fault; any other row that cannot be understood refuses
    the table.

    Raises:
        NoImagesError: there is no such file.
        UsageError: it is no such table, or rows are wrong: the first ten, by line.
    """
    if not path.is_file():
        lacking = f"{path}: no such file" if path.parent.is_dir() else f"{path.parent}: no such folder"
        raise NoImagesError(f"{lacking}; expected {FORM} (`bigrun data import` makes one) - check data.path")
    problems: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = [name.strip() for name in next(rows, [])]
            check_header(path, header)
            for row in rows:
                if not row:
                    continue
                try:
                    yield entry_of(path.parent, header, row)
                except ValueError as error:
                    problems.append(f"  line {rows.line_num}: {error}")
                    if len(problems) > SHOWN:
                        break
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a table of comma-separated values in UTF-8 ({error}); expected {FORM}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if problems:
        more = "at least " if len(problems) > SHOWN else ""
        lines = "\n".join(problems[:SHOWN])
        raise UsageError(f"{path}: {more}{len(problems[:SHOWN])} bad rows; correct or remove them:\n{lines}")


def check_header(path: Path, header: Sequence[str]) -> None:
    """Raises UsageError when a column is missing or there twice."""
    if not header:
        raise UsageError(f"{path}: is empty; expected {FORM}")
    missing = [name for name in REQUIRED if name not in header]
    separator = next((name for name in SEPARATORS if len(header) == 1 and SEPARATORS[name] in header[0]), None)
    if separator is not None:
        raise UsageError(f"{path}: its columns are separated by {separator}; expected commas: save it so")
    if missing:
        raise UsageError(
            f"{path}: no column {', '.join(missing)}; expected {FORM}, got the columns {', '.join(header)}"
        )
    twice = sorted({name for name in header if header.count(name) > 1 and name in (*REQUIRED, *TEXTS, *AXES)})
    if twice:
        raise UsageError(f"{path}: the column {', '.join(twice)} is there twice; expected {FORM}")


def entry_of(root: Path, header: Sequence[str], row: Sequence[str]) -> Entry:
    """Raises ValueError saying what is wrong with the row."""
    if len(row) != len(header):
        raise ValueError(f"expected {len(header)} values as in the first line, got {len(row)}")
    cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
    for name in ("png_path", "series_dir"):
        if not cells[name]:
            raise ValueError(f"{name} is empty")
    columns: dict[str, Value] = {"series": cells["series_dir"], "slice_index": whole("slice_index", cells)}
    columns |= {name: cells[name] or None for name in TEXTS if name in cells}
    columns |= spacing_of(cells)
    try:
        locate(root, cells["png_path"], confined=False)
    except BadImageError as fault:
        return Entry(cells["png_path"], columns, fault=fault)
    return Entry(cells["png_path"], columns)


def whole(name: str, cells: dict[str, str]) -> int:
    value = number(name, cells[name])
    if not value.is_integer():
        raise ValueError(f"{name}: expected a whole number, got {cells[name]!r}")
    return int(value)


def number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name}: expected a number, got {text!r}") from None
    if not math.isfinite(value) or abs(value) > 2**53:
        raise ValueError(f"{name}: expected a finite number, got {text!r}")
    return value


def spacing_of(cells: dict[str, str]) -> dict[str, float | None]:
    """x, y and z in mm, from three columns or from the one that has all; None where there is nothing."""
    found = {axis: cells[axis] for axis in AXES if axis in cells}
    together = cells.get("spacing", "").strip("[]() ")
    if together and not any(found.values()):
        parts = re.split(r"[\s,;]+", together)
        if len(parts) != 3:
            raise ValueError(f"spacing: expected three numbers (x y z in mm), got {cells['spacing']!r}")
        found = dict(zip(AXES, parts, strict=True))
    elif "spacing" in cells:
        found = dict.fromkeys(AXES, "") | found
    spacing = {axis: number(axis, text) if text else None for axis, text in found.items()}
    for axis, value in spacing.items():
        if value is not None and value <= 0:
            raise ValueError(
                f"{axis}: expected more than 0 mm, got {found[axis]!r}; leave it empty where it is unknown"
            )
    return spacing
