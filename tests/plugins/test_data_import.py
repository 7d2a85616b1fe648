"""`bigrun data import` of DICOM: what is written is what was measured, where it was measured, and of nobody."""

from __future__ import annotations

import json
import os
import stat
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from pydicom.uid import SecondaryCaptureImageStorage
from scans import AXIAL, PATIENT, Scan, hounsfield, read_index, read_slices, report, run_import, skipped, succeed

from bigrun.cli import main
from bigrun_ct_import import job

pytestmark = pytest.mark.usefixtures("own_salt")

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "Mustermann Erika" / "CT Thorax"


def canonical(position: tuple[float, float, float], shape: tuple[int, int], spacing: tuple[float, float]) -> Any:
    """The phantom on an axial slice with columns to the left and rows to the back."""
    row, column = np.mgrid[: shape[0], : shape[1]]
    return hounsfield(position[0] + column * spacing[1], position[1] + row * spacing[0], position[2])


# -- order, values, spacing -------------------------------------------------------------------------------------


def test_two_series_in_one_folder_are_told_apart_and_sorted_by_position(source: Path, out: Path) -> None:
    first, second = Scan(source), Scan(source, spacing_mm=(1.0, 1.0), shape=(4, 4), PatientID="HOSP-0816")
    for number, z in enumerate((15, 0, 10, 5)):  # neither names nor instance numbers are in order
        first.add((0, 0, z), name=f"IM{(number * 7) % 5}.dcm", InstanceNumber=9 - number)
        second.add((0, 0, -2 * z), name=f"sub{number}/{9 - number}")
    output = succeed(source, out)
    rows = read_index(out)
    assert len(rows) == 8
    assert len({row["patient"] for row in rows}) == len({row["study"] for row in rows}) == 2
    by_spacing = {row["spacing"]: row["series_dir"] for row in rows}
    assert set(by_spacing) == {"1 2 5", "1 1 10"}
    found = read_slices(out, by_spacing["1 2 5"])
    assert list(found) == [0, 1, 2, 3]
    for index, values in found.items():
        assert np.array_equal(values, canonical((0, 0, 5 * index), (6, 9), (2, 1)))
    below = read_slices(out, by_spacing["1 1 10"])
    assert np.array_equal(below[0], canonical((0, 0, -30), (4, 4), (1, 1)))
    assert rows[0]["png_path"] == f"{rows[0]['series_dir']}/000.png"
    assert {row["dataset"] for row in rows} == {"ct"}
    assert "imported now     2         2        2       8" in output
    assert "skipped" not in output


@pytest.mark.parametrize(
    ("slope", "intercept"), [(1, -1024), (-1, 500), (0.5, -1024), (2.5, 0.25), (0.1, -2000)], ids=str
)
def test_slope_and_intercept_are_those_of_each_slice(source: Path, out: Path, slope: float, intercept: float) -> None:
    scan = Scan(source)
    scan.add((0, 0, 0))
    scan.add((0, 0, 3), slope=slope, intercept=intercept)
    succeed(source, out)
    error = np.abs(read_slices(out)[1] - canonical((0, 0, 3), (6, 9), (2, 1)))
    assert error.max() <= 0.05 + abs(slope) / 2 * (slope not in (1, -1))


@pytest.mark.parametrize(
    "orientation",
    [AXIAL, (-1, 0, 0, 0, -1, 0), (-1, 0, 0, 0, 1, 0), (1, 0, 0, 0, -1, 0), (0, 1, 0, 1, 0, 0), (0, -1, 0, 1, 0, 0)],
    ids=str,
)
def test_however_the_patient_lies_columns_go_to_the_left_and_rows_to_the_back(
    source: Path, out: Path, orientation: tuple[float, ...]
) -> None:
    scan = Scan(source, orientation)
    for z in (4, 0, 8):
        scan.add((0, 0, z))
    succeed(source, out)
    found = read_slices(out)
    along_x = [np.unique(np.diff(values, axis=1)) for values in found.values()]
    along_y = [np.unique(np.diff(values, axis=0)) for values in found.values()]
    width_mm, height_mm = (1, 2) if orientation[0] else (2, 1)
    assert all(np.array_equal(step, [2 * width_mm]) for step in along_x)  # the phantom grows by 2 HU per mm to the left
    assert all(np.array_equal(step, [30 * height_mm]) for step in along_y)
    assert found[2][0, 0] - found[0][0, 0] == 8 * 7  # and by 7 to the head
    assert read_index(out)[0]["spacing"] == f"{width_mm} {height_mm} 4"
    assert ("turned" in report(out)["notes"]) == (orientation != AXIAL)


@pytest.mark.parametrize(
    ("header", "expected"),
    [({"SpacingBetweenSlices": 3.0}, "3"), ({"SpacingBetweenSlices": -3.0}, "3"), ({}, "9")],
    ids=["between", "negative", "thickness"],
)
def test_of_a_single_slice_the_header_says_the_spacing(
    source: Path, out: Path, header: dict[str, float], expected: str
) -> None:
    Scan(source).add((0, 0, 0), **header)
    succeed(source, out)
    assert read_index(out)[0]["spacing_z"] == expected


def test_positions_count_more_than_the_header(source: Path, out: Path) -> None:
    scan = Scan(source)
    for z in (0, 1.25, 2.5, 3.75):
        scan.add((0, 0, z), SpacingBetweenSlices=5.0)
    succeed(source, out)
    assert {row["spacing_z"] for row in read_index(out)} == {"1.25"}


def test_a_tilted_gantry_is_axial_with_distances_along_its_normal(source: Path, out: Path) -> None:
    tilt = np.radians(20)
    scan = Scan(source, (1, 0, 0, 0, np.cos(tilt), np.sin(tilt)))
    for z in (0, 10, 5):  # the table moves along z
        scan.add((0, 0, z))
    assert "tilted       1 series" in succeed(source, out)
    assert float(read_index(out)[0]["spacing_z"]) == pytest.approx(5 * np.cos(tilt), rel=1e-5)
    (facts,) = report(out)["series"].values()
    assert facts["tilt_degrees"] == pytest.approx(20)


# -- what is wrong with a series --------------------------------------------------------------------------------


def test_a_missing_slice_leaves_its_number_out(source: Path, out: Path) -> None:
    scan = Scan(source)
    for z in (0, 2, 4, 10, 12):
        scan.add((0, 0, z))
    assert "gaps         1 series: slices are missing between others (2)" in succeed(source, out)
    assert list(read_slices(out)) == [0, 1, 2, 5, 6]
    assert {row["spacing_z"] for row in read_index(out)} == {"2"}


def test_a_slice_that_cannot_be_read_is_a_missing_slice(source: Path, out: Path) -> None:
    scan = Scan(source)
    paths = [scan.add((0, 0, z)) for z in (0, 2, 4)]
    paths[1].write_bytes(paths[1].read_bytes()[:-10])
    succeed(source, out)
    assert list(read_slices(out)) == [0, 2]
    assert skipped(out) == {"unreadable": 1}


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_a_file_that_was_cut_short_is_not_taken_for_a_good_copy_of_it(source: Path, out: Path, kept: int) -> None:
    scan = Scan(source)
    paths = [scan.add((0, 0, z)) for z in (0, 2, 4)]
    for i, path in enumerate(paths):  # one of them has the smaller hash, the other the smaller name
        content = path.read_bytes()
        pixels = content.index(b"\xe0\x7f\x10\x00") + 12
        (source / f"{'a' if i % 2 else 'z'}{i}.dcm").write_bytes(
            content[: pixels + kept] if kept >= 0 else content[:-1]
        )
    succeed(source, out)
    assert skipped(out) == {"unreadable": 3}
    for number, values in read_slices(out).items():
        assert np.array_equal(values, canonical((0, 0, 2 * number), (6, 9), (2, 1)))


def test_copies_and_second_images_at_a_position_are_left_out(source: Path, out: Path) -> None:
    scan = Scan(source)
    paths = [scan.add((0, 0, z)) for z in (0, 2, 4)]
    (source / "a copy.dcm").write_bytes(paths[1].read_bytes())
    scan.header["PixelSpacing"] = [2.0, 1.0]
    scan.add((0, 0, 2.001), intercept=-1000)
    output = succeed(source, out)
    assert skipped(out) == {"copy": 1, "same-position": 1}
    assert list(read_slices(out)) == [0, 1, 2]
    assert np.array_equal(read_slices(out)[1], canonical((0, 0, 2), (6, 9), (2, 1)))
    assert "a copy of an image that is there already" in output


def test_phases_of_one_series_are_series(source: Path, out: Path) -> None:
    scan = Scan(source)
    for acquisition in (1, 2):
        for z in (0, 2, 4):
            scan.add((float(acquisition), 0, z), AcquisitionNumber=acquisition)
    succeed(source, out)
    rows = read_index(out)
    assert len({row["series_dir"] for row in rows}) == 2
    assert len({row["study"] for row in rows}) == 1
    assert skipped(out) == {}


def test_a_scanner_that_numbers_every_slice_makes_no_phases(source: Path, out: Path) -> None:
    scan = Scan(source)
    for number, z in enumerate((0, 2, 4, 4)):
        scan.add((0, 0, z), AcquisitionNumber=number)
    succeed(source, out)
    assert list(read_slices(out)) == [0, 1, 2]
    assert skipped(out) == {"same-position": 1}


def test_one_position_watched_over_time_is_one_slice(source: Path, out: Path) -> None:
    scan = Scan(source)
    for number in range(4):
        scan.add((0, 0, 0), AcquisitionNumber=number)
    succeed(source, out)
    assert len(read_index(out)) == 1


def test_sizes_and_orientations_of_one_series_are_told_apart(source: Path, out: Path) -> None:
    uid = {"SeriesInstanceUID": "1.2.3.4", "StudyInstanceUID": "1.2.3"}
    tilted = (1, 0, 0, 0, 0.995, 0.0998749)
    scans = [Scan(source / "a", **uid), Scan(source / "b", shape=(5, 5), **uid)]
    scans += [Scan(source / "c", tilted, **uid), Scan(source / "d", PatientID="other", **uid)]
    for scan in scans:
        scan.add((0, 0, 0))
        scan.add((0, 0, 2))
    succeed(source, out)
    assert [facts["slices"] for facts in report(out)["series"].values()] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("orientation", "name"),
    [((1, 0, 0, 0, 0, -1), "coronal"), ((0, 1, 0, 0, 0, -1), "sagittal"), ((1, 0, 0, 0, 0.75, 0.6614), "oblique")],
    ids=["coronal", "sagittal", "oblique"],
)
def test_other_planes_are_left_out_unless_asked_for(
    source: Path, out: Path, orientation: tuple[float, ...], name: str
) -> None:
    scan = Scan(source, orientation)
    for step in (0, 2, 4):
        scan.add((step, step, 0))
    done = run_import(source, out)
    assert done.exit_code == 1
    assert skipped(out) == {"not-axial": 3}
    assert report(out)["skipped"]["not-axial"]["series"] == 1
    succeed(source, out, "--any-plane")
    (facts,) = report(out)["series"].values()
    assert facts["plane"] == name
    first = read_slices(out)[0]
    assert np.abs(first - scan.values((0, 0, 0))).max() <= 0.5 or np.abs(first - scan.values((4, 4, 0))).max() <= 0.5


# -- what is no series of a CT ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MIP"]}, "projection"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "secondary-capture"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "secondary-capture"),
        ({"BurnedInAnnotation": "YES"}, "burned-in"),
        ({"Modality": "MR"}, "modality"),
        ({"Modality": None}, "modality"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "colour"),
        ({"RescaleType": "Z_EFF"}, "not-hounsfield"),
        ({"RescaleSlope": None}, "not-hounsfield"),
        ({"ImagePositionPatient": None}, "no-geometry"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "no-geometry"),
        ({"PixelSpacing": [0, 1]}, "no-geometry"),
        ({"SliceThickness": None}, "no-geometry"),
        ({"SeriesInstanceUID": None}, "no-geometry"),
        ({"Rows": 9000, "Columns": 9000}, "too-large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_slice_of_a_ct_is_left_out_with_its_reason(
    source: Path, out: Path, header: dict[str, Any], reason: str
) -> None:
    Scan(source / "good").add((0, 0, 0))
    Scan(source / "bad").add((0, 0, 0), **header)
    succeed(source, out)
    assert len(read_index(out)) == 1
    assert skipped(out) == {reason: 1}


def test_broken_and_foreign_files_do_not_stop_an_import(source: Path, out: Path) -> None:
    path = Scan(source).add((0, 0, 0))
    whole = path.read_bytes()
    for cut in (0, 100, 140, 200, 400):
        (source / f"cut at {cut}.dcm").write_bytes(whole[:cut])
    (source / "notes.txt").write_text("Erika Mustermann")
    (source / "loop").symlink_to(source)
    (source / "gone").symlink_to(source / "nowhere")
    os.mkfifo(source / "pipe")
    succeed(source, out)
    assert len(read_index(out)) == 1
    found = skipped(out)
    assert found.pop("not-a-volume") >= 3
    assert found.pop("not-a-file") == 2
    assert sum(found.values()) == 4
    assert set(found) <= {"unreadable", "no-image"}


def test_frames_of_an_enhanced_file_are_slices(source: Path, out: Path) -> None:
    Scan(source).add_enhanced([(0, 0, z) for z in (6, 0, 2, 4)])
    succeed(source, out)
    found = read_slices(out)
    assert list(found) == [0, 1, 2, 3]
    for index, values in found.items():
        assert np.array_equal(values, canonical((0, 0, 2 * index), (6, 9), (2, 1)))


def test_another_modality_needs_a_scale(source: Path, out: Path) -> None:
    scan = Scan(source, Modality="MR", RescaleType=None)
    scan.add((0, 0, 0))
    done = run_import(source, out, "--modality", "MR")
    assert done.exit_code == 2
    assert "--modality MR: expected --scale too" in done.output
    assert not out.exists()
    succeed(source, out, "--modality", "MR", "--scale", "2")
    assert np.array_equal(read_slices(out)[0] * 20, 2 * np.rint(canonical((0, 0, 0), (6, 9), (2, 1)) / 2))


# -- real files -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that pydicom ships, imported."""
    root = tmp_path_factory.mktemp("real")
    done = run_import(TEST_FILES, root / "out", "--salt-file", root / "salt", "--map", root / "map.json")
    assert done.exit_code == 0, done.output
    return root


def test_of_real_files_every_ct_is_found_and_everything_else_has_a_reason(real: Path) -> None:
    told = json.loads((real / "map.json").read_text())
    files = {Path(file).name for facts in told["series"].values() for file in facts["files"]}
    assert {"CT_small.dcm", "17106", "17136", "17166", "17196"} <= files
    reasons = {Path(file).name: entry["reason"] for entry in told["skipped"] for file in entry["files"]}
    expected = {
        "MR_small.dcm": "modality", "rtplan.dcm": "no-image", "rtdose.dcm": "modality", "SC_rgb_rle.dcm":
        "secondary-capture", "6293": "localizer", "DICOMDIR": "no-image", "test-SR.dcm": "no-image",
        "crayons.icc": "not-a-volume", "ExplVR_BigEndNoMeta.dcm": "no-image", "examples_rgb_color.dcm": "modality",
    }  # fmt: skip
    assert {name: reasons.get(name) for name in expected} == expected
    total = sum(path.is_file() for path in TEST_FILES.rglob("*"))
    assert total == len([f for facts in told["series"].values() for f in facts["files"]]) + sum(
        len(entry["files"]) for entry in told["skipped"]
    )


def test_a_real_slice_has_the_values_that_pydicom_computes(real: Path) -> None:
    from pydicom.pixels import apply_rescale

    file = pydicom.dcmread(TEST_FILES / "CT_small.dcm")
    told = json.loads((real / "map.json").read_text())["series"]
    (series,) = (name for name, facts in told.items() if facts["files"][0].endswith("CT_small.dcm"))
    expected = np.clip(apply_rescale(file.pixel_array, file), -1024, 3071)
    assert np.array_equal(read_slices(real / "out", series)[0], expected)
    row = next(row for row in read_index(real / "out") if row["series_dir"] == series)
    assert row["spacing"] == "0.661468 0.661468 5"


def test_a_form_without_a_decoder_says_what_to_install(tmp_path: Path, out: Path) -> None:
    source = TEST_FILES / "MR_small_jpeg_ls_lossless.dcm"
    from pydicom.pixels.decoders import JPEGLSLosslessDecoder

    if JPEGLSLosslessDecoder.is_available:
        pytest.skip("a decoder of JPEG-LS is installed")
    done = run_import(source, out, "--modality", "MR", "--scale", "1", "--map", tmp_path / "map.json")
    assert done.exit_code == 1
    assert skipped(out) == {"no-decoder": 1}
    (line,) = [line for line in done.output.splitlines() if line.startswith("no-decoder  ") and "JPEG-LS" in line]
    assert "requires pylibjpeg" in " ".join(line.split())
    assert json.loads((tmp_path / "map.json").read_text())["skipped"][0]["files"] == [str(source)]


# -- nobody is named --------------------------------------------------------------------------------------------


def test_nothing_in_the_output_names_a_patient(source: Path, out: Path, tmp_path: Path) -> None:
    scan = Scan(source, StudyDescription="Thorax of Mustermann", AccessionNumber="ACC-77", StudyDate="20240229")
    secret = [scan.header["SeriesInstanceUID"], scan.header["StudyInstanceUID"], *PATIENT.values(), "ACC-77",
              "20240229", "Mustermann", "Erika", "HOSP", "CT Thorax", "Geheim", str(source)]  # fmt: skip
    for z in (0, 2):
        uid = f"1.2.826.77.{z}"
        scan.add((0, 0, z), name=f"Geheim-{z}.dcm", SOPInstanceUID=uid)
        secret.append(uid)
    (source / "Mustermann Erika.txt").write_text("Mustermann")
    Scan(source / "cut").add((0, 0, 0), name="Mustermann.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"Mustermann" * 9)
    output = succeed(source, out)
    names = [path.relative_to(out).as_posix() for path in out.rglob("*")]
    content = b"\n".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    for text in secret:
        assert not [name for name in names if text in name]
        assert text.encode() not in content, text
        assert text not in output
    for path in out.rglob("*.png"):
        assert chunks(path) == [b"IHDR", b"IDAT", b"IEND"]
    succeed(source, out, "--map", tmp_path / "map.json")
    assert "Geheim-0.dcm" in (tmp_path / "map.json").read_text()
    assert stat.S_IMODE((tmp_path / "map.json").stat().st_mode) == 0o600


def chunks(path: Path) -> list[bytes]:
    data, place, found = path.read_bytes(), 8, []
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        found.append(data[place + 4 : place + 8])
        place += 12 + length
    return found


def test_a_patient_has_one_name_under_one_salt_and_another_under_another(
    source: Path, out: Path, tmp_path: Path, own_salt: Path
) -> None:
    for folder in ("a", "b"):
        Scan(source / folder).add((0, 0, 0))
    Scan(source / "c", PatientID="somebody else").add((0, 0, 0))
    succeed(source, out)
    assert stat.S_IMODE(own_salt.stat().st_mode) == 0o600
    assert sorted(patients(out).values()) == [1, 2]
    succeed(source / "a", tmp_path / "again")
    assert set(patients(tmp_path / "again")) < set(patients(out))
    succeed(source, tmp_path / "other", "--salt-file", tmp_path / "other-salt")
    assert not set(patients(tmp_path / "other")) & set(patients(out))
    done = run_import(source, out, "--salt-file", tmp_path / "other-salt")
    assert done.exit_code == 2
    assert "was imported with another salt" in done.output


def patients(out: Path) -> dict[str, int]:
    """Series of each patient."""
    pairs = {(row["patient"], row["series_dir"]) for row in read_index(out)}
    return {patient: sum(p == patient for p, _ in pairs) for patient, _ in pairs}


def test_without_a_patient_number_the_name_and_then_the_study_stand_for_the_patient(source: Path, out: Path) -> None:
    nobody = {"PatientID": "", "PatientName": "", "PatientBirthDate": ""}
    for folder, header in (
        ("a", {"PatientID": ""}), ("b", {"PatientID": "", "StudyInstanceUID": "1.2.3"}), ("c", nobody), ("d", nobody),
    ):  # fmt: skip
        Scan(source / folder, **header).add((0, 0, 0))
    succeed(source, out)
    assert sorted(patients(out).values()) == [1, 1, 2]


@pytest.mark.parametrize(
    ("mode", "text", "message"),
    [(0o644, "0123456789abcdef0123", "others may read the salt (mode 644)"), (0o600, "short", "the salt has 5 bytes")],
    ids=["readable", "short"],
)
def test_a_salt_that_protects_nobody_is_refused(
    source: Path, out: Path, tmp_path: Path, mode: int, text: str, message: str
) -> None:
    Scan(source).add((0, 0, 0))
    salt = tmp_path / "salt"
    salt.write_text(text)
    salt.chmod(mode)
    done = run_import(source, out, "--salt-file", salt)
    assert done.exit_code == 2
    assert message in done.output
    assert not out.exists()


def test_salt_and_map_must_not_be_in_the_data_set(source: Path, out: Path) -> None:
    Scan(source).add((0, 0, 0))
    for words in (["--salt-file", out / "salt"], ["--map", out / "map.json"]):
        done = run_import(source, out, *words)
        assert done.exit_code == 2
        assert "must not be in the data set" in done.output
        assert not out.exists()


# -- places that cannot be used ---------------------------------------------------------------------------------


def test_places_that_cannot_be_used_are_refused_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    Scan(source).add((0, 0, 0))
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "thesis.tex").touch()
    file.touch()
    for place, target, message in (
        (tmp_path / "nowhere", tmp_path / "new", "no such file or folder"),
        (source, source / "out", "choose a folder of its own"),
        (source, tmp_path, "choose a folder of its own"),
        (source, full, "holds files that no import has made"),
        (source, file, "is a file"),
    ):
        done = run_import(place, target)
        assert done.exit_code == 2, done.output
        assert message in done.output
    assert [path.name for path in full.iterdir()] == ["thesis.tex"]


def test_a_package_that_is_missing_is_named_with_the_way_to_get_it(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scan(source).add((0, 0, 0))
    monkeypatch.setitem(job.PACKAGES, "dicom", ("no_such_package", "DICOM files are read by no_such_package"))
    done = run_import(source, out)
    assert done.exit_code == 2
    assert "read by no_such_package, which is not installed: pip install 'bigrun[ct]'" in done.output


def test_an_import_of_nothing_ends_with_1_and_says_why(tmp_path: Path, out: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.txt").touch()
    done = run_import(tmp_path / "in", out)
    assert done.exit_code == 1
    assert "nothing was imported; expected DICOM files, NIfTI" in done.output.replace("\n", " ")
    assert "not-a-volume" in done.output


def test_the_plugin_for_ct_slices_reads_what_was_imported(source: Path, out: Path) -> None:
    scan = Scan(source)
    for z in (0, 2, 4, 8):
        scan.add((0, 0, z))
    Scan(source / "b", PatientID="other").add((0, 0, 0))
    succeed(source, out)
    words = ["data", "check", str(out), "--plugin", "ct-slices", "--set", "plugins.ct-slices.check_hu=false", "--json"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    text = json.dumps(found)
    assert found["images"] == 5, text
