"""`bigrun data import`: which slices become one series, and which of them training takes for neighbours."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from scans import Scan, read_index, report, skipped, succeed

from bigrun.data.files import open_files
from bigrun_ct.index import read_index as read_entries
from bigrun_ct.series import find_series

pytestmark = pytest.mark.usefixtures("own_salt")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "in"


def sizes(out: Path) -> list[int]:
    return sorted(facts["slices"] for facts in report(out)["series"].values())


def neighbours(out: Path) -> list[tuple[int, int]]:
    """Pairs of slices of the one series, counted from the feet, that training takes for neighbours."""
    files = open_files(out, lambda: read_entries(out / "index.csv"))
    series = find_series(files, str(out))
    place = {int(file): rank for rank, file in enumerate(series.order)}
    return [(place[f], place[int(series.above[f])]) for f in map(int, series.order) if series.above[f] != f]


@pytest.mark.parametrize(
    ("positions", "spacing", "expected", "notes"),
    [
        ((0, 5, 10, 15, 22, 27, 32), "5", [(0, 1), (1, 2), (2, 3), (4, 5), (5, 6)], {"irregular"}),
        ((0, 5, 10, 13, 18, 23), "5", [(0, 1), (1, 2), (3, 4), (4, 5)], {"irregular"}),
        ((0, 5, 10, 11.25, 12.5), "1.25", [(2, 3), (3, 4)], {"gaps"}),
        ((0, 3, 11, 16, 19, 27, 32, 35, 43), "5", [(2, 3), (5, 6)], {"gaps", "irregular"}),
        ((0, 5, 17, 22, 27), "5", [(0, 1), (2, 3), (3, 4)], {"gaps", "irregular"}),
        ((0, 0.6, 1.3, 1.9, 2.5, 3.1, 3.8), "0.6", [(n, n + 1) for n in range(6)], set()),
    ],
    ids=["longer", "shorter", "two spacings", "hardly ever", "gap", "rounded"],
)
def test_only_slices_at_the_usual_distance_are_neighbours(
    source: Path,
    out: Path,
    positions: tuple[float, ...],
    spacing: str,
    expected: list[tuple[int, int]],
    notes: set[str],
) -> None:
    scan = Scan(source)
    for z in positions:
        scan.add((0, 0, z))
    succeed(source, out)
    assert {row["spacing_z"] for row in read_index(out)} == {spacing}
    assert neighbours(out) == expected
    assert report(out)["notes"].keys() == notes


def test_images_that_share_a_number_are_no_copies(source: Path, out: Path) -> None:
    scan = Scan(source)
    for z in range(0, 20, 5):
        scan.add((0, 0, z), SOPInstanceUID="1.2.3")
    succeed(source, out)
    assert sizes(out) == [4]
    assert skipped(out) == {}
    succeed(source, out)
    assert report(out)["this_import"]["series"] == 0


@pytest.mark.parametrize("shift", [0, 1, 2], ids=str)
def test_phases_that_are_shifted_against_each_other_are_apart(source: Path, out: Path, shift: int) -> None:
    scan = Scan(source)
    for acquisition in (1, 2):
        for z in range(0, 25, 5):
            scan.add((0, 0, z + (acquisition - 1) * shift), AcquisitionNumber=acquisition)
    succeed(source, out)
    assert sizes(out) == [5, 5]
    assert {row["spacing_z"] for row in read_index(out)} == {"5"}
    assert report(out)["notes"].keys() <= {"clipped"}


def test_acquisitions_that_make_one_even_stack_stay_together(source: Path, out: Path) -> None:
    scan = Scan(source)
    for acquisition in (1, 2):
        for z in range(0, 25, 5):  # every second slice on the way back
            scan.add((0, 0, z + (acquisition - 1) * 2.5), AcquisitionNumber=acquisition)
    for number in range(2):  # four slices with every turn of the tube
        for z in range(4):
            scan.add((0, 0, 25 + (4 * number + z) * 2.5), AcquisitionNumber=3 + number)
    succeed(source, out)
    assert sizes(out) == [18]


def test_a_map_that_was_computed_of_scans_is_no_ct(source: Path, out: Path) -> None:
    Scan(source / "a", ImageType=["DERIVED", "PRIMARY", "PERFUSION", "CBF"], RescaleType=None).add((0, 0, 0))
    Scan(source / "b", ImageType=["ORIGINAL", "PRIMARY", "PERFUSION", "NONE"]).add((0, 0, 0))
    succeed(source, out)
    assert skipped(out) == {"not-hounsfield": 1}
    assert sizes(out) == [1]


def test_a_series_without_air_is_told(source: Path, out: Path) -> None:
    Scan(source / "a").add((0, 0, 0))
    assert "no-air" not in succeed(source / "a", out)
    Scan(source / "b").add((0, 40, 0))
    assert "no-air       1 series: hardly any value below -500, where air is" in succeed(source, out)
    assert report(out)["notes"]["no-air"] == 1


def test_a_volume_that_is_not_axial_is_left_out_unless_asked_for(source: Path, out: Path) -> None:
    for degrees in (30, 44):
        angle = np.radians(degrees)
        turn = np.eye(4)
        turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        source.mkdir(exist_ok=True)
        values = np.full((4, 4, 3), -1000 + degrees, dtype=np.int16)
        nibabel.save(nibabel.Nifti1Image(values, turn @ np.diag([-1.0, -1.0, 5.0, 1.0])), source / f"{degrees}.nii")
    succeed(source, out)
    assert sizes(out) == [3]
    assert report(out)["skipped"]["not-axial"]["series"] == 1
    assert "not-axial    1 series" in succeed(source, out, "--any-plane")
    assert sizes(out) == [3, 3]
