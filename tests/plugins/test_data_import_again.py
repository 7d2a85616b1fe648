"""`bigrun data import` into one data set from several places, and again after files have changed: nothing gets lost."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from scans import Scan, read_index, read_slices, report, run_import, skipped, succeed

from bigrun.cli import main

pytestmark = pytest.mark.usefixtures("own_salt")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "in"


def imported_now(out: Path) -> int:
    return int(report(out)["this_import"]["series"])


def sizes(out: Path) -> list[int]:
    """Slices of each series, sorted; as many are in the index as are in the folders."""
    found = sorted(len(list(path.glob("*.png"))) for path in out.glob("[!.]*/"))
    names = [row["series_dir"] for row in read_index(out)]
    assert sorted(names.count(name) for name in set(names)) == found
    return found


def write_volume(path: Path, hu: int, slices: int = 4) -> Path:
    """A NIfTI volume of a body of so many HU in air."""
    values = np.full((16, 16, slices), -1000, dtype=np.int16)
    values[4:12, 4:12] = hu
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 5.0, 1.0])), path)
    return path


def bodies(out: Path) -> list[float]:
    """HU of the body of each volume."""
    return sorted(float(read_slices(out, name)[1][8, 8]) for name in {row["series_dir"] for row in read_index(out)})


# -- volumes ----------------------------------------------------------------------------------------------------


def test_volumes_of_one_name_that_come_folder_by_folder_are_two(source: Path, out: Path) -> None:
    for folder, hu in (("p1", 40), ("p2", 300)):
        write_volume(source / folder / "ct.nii", hu)
        succeed(source / folder, out, "--patient-from", "folder")
    assert bodies(out) == [40, 300]
    assert len({row["patient"] for row in read_index(out)}) == 2
    succeed(source, out, "--patient-from", "folder")  # and are the same two when they come together
    assert imported_now(out) == 0
    assert sizes(out) == [4, 4]


def test_two_files_that_hold_the_same_are_one_volume(source: Path, out: Path) -> None:
    path = write_volume(source / "a.nii", 40)
    shutil.copy(path, source / "b.nii")
    succeed(source, out)
    assert sizes(out) == [4]
    assert skipped(out) == {"copy": 1}
    shutil.copy(path, write_volume(out.with_name("elsewhere") / "c.nii", 0))
    succeed(out.with_name("elsewhere"), out)
    assert sizes(out) == [4]


def test_a_volume_that_has_changed_is_told_beside_the_earlier_one(source: Path, out: Path) -> None:
    write_volume(source / "ct.nii", 40)
    succeed(source, out)
    (earlier,) = {row["series_dir"] for row in read_index(out)}
    write_volume(source / "ct.nii", 77)  # as many bytes, and the same first 4 KiB
    output = succeed(source, out)
    assert bodies(out) == [40, 77]
    assert "outdated     1 series" in output
    assert earlier in output
    shutil.rmtree(out / earlier)
    assert "outdated" not in succeed(source, out)
    assert bodies(out) == [77]


def test_a_name_that_stays_is_never_that_of_another_volume(source: Path, out: Path) -> None:
    write_volume(source / "p1" / "ct.nii", 40)
    write_volume(source / "p2" / "ct.nii", 300)
    succeed(source / "p1", out, "--keep-names")
    done = run_import(source / "p2", out, "--keep-names")
    assert done.exit_code == 2
    assert "would be ct, as another volume of an earlier import is" in done.output
    assert bodies(out) == [40]
    write_volume(source / "p1" / "ct.nii", 77)
    succeed(source / "p1", out, "--keep-names")
    assert bodies(out) == [77]
    shutil.copy(source / "p1" / "ct.nii", source / "p2" / "ct.nii")
    succeed(source / "p2", out, "--keep-names")
    assert imported_now(out) == 0


# -- DICOM series -----------------------------------------------------------------------------------------------


def test_a_series_in_two_folders_is_never_replaced_by_its_smaller_part(source: Path, out: Path) -> None:
    scan = Scan(source / "a")
    for z in range(0, 15, 5):
        scan.add((0, 0, z))
    scan.folder = source / "b"
    for z in range(15, 25, 5):
        scan.add((0, 0, z))
    succeed(source / "a", out)
    output = succeed(source / "b", out)
    assert sizes(out) == [3]
    assert skipped(out) == {"part-of-series": 2}
    assert "import a folder that holds all of it" in " ".join(output.split())
    succeed(source, out)
    assert sizes(out) == [5]
    succeed(source / "b", out)  # all of it is there
    assert sizes(out) == [5]
    assert skipped(out) == {}


def test_a_header_that_has_changed_counts_even_if_the_file_is_as_long(source: Path, out: Path) -> None:
    scan = Scan(source)
    paths = [scan.add((0, 0, z)) for z in (0, 5)]
    succeed(source, out)
    before = read_slices(out)
    for path in paths:
        size = path.stat().st_size
        file = pydicom.dcmread(path)
        file.RescaleIntercept = -1000
        file.save_as(path)
        assert path.stat().st_size == size
    succeed(source, out)
    assert imported_now(out) == 1
    assert all(np.array_equal(values, before[z] + 24) for z, values in read_slices(out).items())


def test_a_phase_that_comes_later_is_a_series_beside_the_first(source: Path, out: Path) -> None:
    scan = Scan(source / "1")
    for acquisition in (1, 2):
        scan.folder = source / str(acquisition)
        for z in (0, 5, 10):
            scan.add((0, 0, z), AcquisitionNumber=acquisition)
    succeed(source / "1", out)
    succeed(source, out)
    assert imported_now(out) == 1
    assert sizes(out) == [3, 3]
    succeed(source / "2", out)
    assert sizes(out) == [3, 3]
    assert skipped(out) == {}


def test_a_series_that_got_another_name_as_it_grew_is_not_in_twice(source: Path, out: Path) -> None:
    scan = Scan(source)
    scan.add((0, 0, 0), AcquisitionNumber=1)
    succeed(source, out)
    for number in (2, 3):  # the scanner numbers every slice: they have no acquisition in common
        scan.add((0, 0, 5 * number), AcquisitionNumber=number)
    succeed(source, out)
    assert sizes(out) == [3]


# -- slices that cannot be read ---------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, pixels: bool = True) -> None:
    """Reading pixels (or the header) of files of this name fails from now on."""
    real: Callable[..., Any] = pydicom.dcmread

    def read(path: Any, **options: Any) -> Any:
        if str(getattr(path, "name", path)).endswith(name) and ("stop_before_pixels" in options) != pixels:
            raise error
        return real(path, **options)

    monkeypatch.setattr(pydicom, "dcmread", read)


def test_a_slice_that_could_not_be_read_is_told_until_it_can(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = Scan(source / "a")
    for z in (0, 5, 10):
        scan.add((0, 0, z))
    Scan(source / "b", PatientID="other").add((0, 0, 0))
    with monkeypatch.context() as broken:
        failing(broken, "a/2.dcm", OSError(errno.EIO, "Input/output error"))
        output = succeed(source / "a", out)
        assert "gaps         1 series: slices are missing between others (1)" in output
    assert skipped(out) == {"unreadable": 1}
    succeed(source / "b", out)  # what is in the data set is told, wherever it came from
    assert skipped(out) == {"unreadable": 1}
    succeed(source, out)
    assert skipped(out) == {}
    assert sizes(out) == [1, 3]


def test_a_slice_that_cannot_be_read_any_more_stays(source: Path, out: Path) -> None:
    scan = Scan(source)
    paths = [scan.add((0, 0, z)) for z in (0, 5, 10)]
    succeed(source, out)
    paths[2].write_bytes(paths[2].read_bytes()[:-10])
    succeed(source, out)
    assert sizes(out) == [3]
    assert skipped(out) == {"unreadable": 1, "part-of-series": 2}


def test_an_enhanced_file_without_a_readable_frame_is_one_series_left_out(source: Path, out: Path) -> None:
    path = Scan(source).add_enhanced([(0, 0, z) for z in (0, 2, 4, 6)])
    path.write_bytes(path.read_bytes()[:-150])
    done = run_import(source, out)
    assert done.exit_code == 1
    facts = report(out)["skipped"]
    assert {reason: (found["images"], found["series"]) for reason, found in facts.items()} == {"unreadable": (4, 1)}


@pytest.mark.parametrize("where", ["header", "pixels", "volume", "content"])
@pytest.mark.parametrize(
    ("error", "message"),
    [(MemoryError(), "not enough memory"), (OSError(errno.EMFILE, "Too many open files"), "Too many open files")],
    ids=["memory", "files"],
)
def test_what_the_machine_lacks_is_no_fault_of_a_file(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception, message: str
) -> None:
    Scan(source).add((0, 0, 0), name="a.dcm")
    write_volume(source / "b.nii", 40)
    with monkeypatch.context() as broken:
        if where == "volume":
            broken.setattr(nibabel.Nifti1Image, "from_stream", raising(error))
        elif where == "content":
            broken.setattr(hashlib, "file_digest", raising(error))
        else:
            failing(broken, "a.dcm", error, pixels=where == "pixels")
        done = run_import(source, out)
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert message in done.output
    assert "the same command goes on where this one stopped" in done.output
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    succeed(source, out)
    assert sizes(out) == [1, 4]
    assert skipped(out) == {}


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


# -- one way to store values ------------------------------------------------------------------------------------


def test_one_data_set_stores_values_in_one_way(source: Path, out: Path) -> None:
    write_volume(source / "p1" / "ct.nii", 40)
    write_volume(source / "p2" / "ct.nii", 300)
    succeed(source / "p1", out)
    for words in (["--scale", "1"], ["--modality", "MR", "--scale", "0.1"]):
        done = run_import(source / "p2", out, *words)
        assert done.exit_code == 2
        assert done.output.count("\n") == 1
        assert "its data set 'ct' holds CT in steps of 0.1, got" in done.output
    succeed(source / "p2", out, "--scale", "1", "--dataset", "coarse")
    assert sorted({row["dataset"] for row in read_index(out)}) == ["coarse", "ct"]


def test_steps_of_a_ct_that_do_not_hold_air_or_bone_are_refused(source: Path, out: Path) -> None:
    write_volume(source / "ct.nii", 40)
    done = run_import(source, out, "--scale", "0.02")
    assert done.exit_code == 2
    assert "16 bits hold -655.36 to 655.34 HU in such steps, expected -1024 to 3071" in done.output
    assert "--scale 0.0938 or more" in done.output
    assert not out.exists()
    succeed(source, out, "--scale", "0.0938")
    output = succeed(source, out.with_name("mr"), "--modality", "MR", "--scale", "0.02")
    assert "clipped      1 series: values out of range" in output


# -- patients ---------------------------------------------------------------------------------------------------


def split(out: Path, *words: str) -> str:
    place = [
        "--plugin",
        "ct-slices",
        "--set",
        "plugins.ct-slices.check_hu=false",
        "--out",
        str(out.with_name("s.json")),
    ]
    done = CliRunner().invoke(main, ["data", "split", str(out), *place, *words])
    return done.output


def test_nobody_is_invented_as_the_patient_of_a_volume(source: Path, out: Path) -> None:
    for name, hu in (("a", 40), ("b", 300), ("c", 77)):
        write_volume(source / f"{name}.nii", hu)
    output = succeed(source, out)
    assert "no-patient   3 series: nobody knows of which patient: --patient-from folder" in output
    assert report(out)["dataset"]["patients"] == 0
    assert "patient" not in read_index(out)[0]
    told = split(out)
    assert "by study" in told
    assert "there is no column `patient`: two study groups of one patient may be on both sides" in told
    assert "knows no patient, only study, series" in split(out, "--level", "patient")
    for words in (["--patient-from", "file"], [], ["--dataset", "other"]):  # what was said once is not forgotten
        assert "no-patient" not in succeed(source, out, *words)
        assert len({row["patient"] for row in read_index(out)}) == 3


def test_volumes_without_a_patient_beside_scans_of_one_are_told_by_the_split(source: Path, out: Path) -> None:
    Scan(source).add((0, 0, 0))
    write_volume(source / "ct.nii", 40)
    succeed(source, out)
    assert sorted({row["patient"] != "" for row in read_index(out)}) == [False, True]
    assert "4 of 5 samples have no patient" in split(out, "--level", "patient")


def test_a_folder_stands_for_a_patient_wherever_the_import_begins(source: Path, out: Path) -> None:
    write_volume(source / "p1" / "a.nii", 40)
    write_volume(source / "p1" / "b.nii", 50)
    for begin in (source, source / "p1", source / "p1" / "a.nii"):
        succeed(begin, out, "--patient-from", "folder")
        assert imported_now(out) == (2 if begin == source else 0)
    assert len({row["patient"] for row in read_index(out)}) == 1


def test_whose_number_a_patient_number_is_does_not_count(source: Path, out: Path) -> None:
    for folder, issuer in (("a", None), ("b", "CLINIC")):
        Scan(source / folder, IssuerOfPatientID=issuer).add((0, 0, 0))
    succeed(source, out)
    assert len({row["patient"] for row in read_index(out)}) == 1
    assert sizes(out) == [1, 1]
