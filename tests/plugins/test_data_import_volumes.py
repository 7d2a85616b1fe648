"""`bigrun data import` of NIfTI and NRRD: any orientation becomes the same axial slices; HU and PNG there and back."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scans import hounsfield, read_index, read_slices, run_import

from bigrun_ct_import.hounsfield import CT, other_encoding
from bigrun_ct_import.png import encode_png
from bigrun_ct_import.pseudonyms import Pseudonyms
from bigrun_ct_import.volumes import read_volume

pytestmark = pytest.mark.usefixtures("own_salt")

NIBABEL = Path(nibabel.__file__).parent / "tests" / "data"
SHAPE, SPACING = (5, 4, 3), (1.0, 2.0, 3.0)  # along x, y, z of the patient
SIGN = {"LPS": (1, 1, 1), "RAS": (-1, -1, 1), "LAS": (1, -1, 1)}
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def phantom() -> npt.NDArray[np.float64]:
    """(x, y, z) HU, the first voxel at 0."""
    return hounsfield(*(index * mm for index, mm in zip(np.indices(SHAPE), SPACING, strict=True)))


def laid(axes: tuple[int, ...], signs: tuple[int, ...]) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float64]]:
    """The phantom with its axes in another order and direction, and its affine (4, 4) in LPS."""
    stored = np.flip(phantom().transpose(axes), [i for i in range(3) if signs[i] < 0])
    affine = np.eye(4)
    affine[:3, :3] = 0
    for i, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[axis, i] = sign * SPACING[axis]
        affine[axis, 3] = 0 if sign > 0 else (SHAPE[axis] - 1) * SPACING[axis]
    return stored.astype(np.int16), affine


def write_nifti(path: Path, stored: npt.NDArray[Any], affine: npt.NDArray[np.float64], cls: Any = nibabel.Nifti1Image,
                slope: float | None = None, inter: float | None = None) -> Path:  # fmt: skip
    image = cls(stored, np.diag([-1, -1, 1, 1]) @ affine)  # NIfTI's coordinates are RAS
    image.header.set_slope_inter(slope, inter)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def write_nrrd(
    path: Path, stored: npt.NDArray[Any], affine: npt.NDArray[np.float64], space: str = "LPS", **header: Any
) -> Path:
    """Rows of `space directions` are the directions of axes, in the coordinates of `space`."""
    names = {"LPS": "left-posterior-superior", "RAS": "right-anterior-superior", "LAS": "left-anterior-superior"}
    directions = (np.diag(SIGN[space]) @ affine[:3, :3]).T
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"space": names[space], "space directions": directions, "encoding": "gzip", **header}
    nrrd.write(str(path), stored, {key: value for key, value in facts.items() if value is not None})
    return path


def slices_of(path: Path, kind: str) -> npt.NDArray[np.float64]:
    """(x, y, z) of what would be written."""
    return np.stack([values.T for _, values in read_volume(path, kind).slices()], axis=2)


# -- orientation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["nifti", "nrrd"])
def test_each_of_48_orientations_becomes_the_same_axial_slices(kind: str, tmp_path: Path) -> None:
    assert len(ORIENTATIONS) == 48
    for axes, signs in ORIENTATIONS:
        stored, affine = laid(axes, signs)
        path = (write_nifti if kind == "nifti" else write_nrrd)(
            tmp_path / ("a.nii" if kind == "nifti" else "a.nrrd"), stored, affine
        )
        volume = read_volume(path, kind)
        assert np.array_equal(slices_of(path, kind), phantom()), (axes, signs)
        assert volume.spacing_mm == SPACING
        assert volume.is_turned == ((axes, signs) != ((0, 1, 2), (1, 1, 1)))


@pytest.mark.parametrize("space", SIGN)
def test_the_space_of_an_nrrd_file_counts(space: str, tmp_path: Path) -> None:
    path = write_nrrd(tmp_path / "a.nrrd", *laid((2, 0, 1), (1, -1, 1)), space)
    assert np.array_equal(slices_of(path, "nrrd"), phantom())


def test_an_oblique_volume_goes_by_its_nearest_axes(tmp_path: Path) -> None:
    stored, affine = laid((2, 0, 1), (1, -1, -1))
    angle = np.radians(12)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    path = write_nifti(tmp_path / "a.nii.gz", stored, turn @ affine)
    volume = read_volume(path, "nifti")
    assert np.array_equal(slices_of(path, "nifti"), phantom())
    assert volume.spacing_mm == pytest.approx(SPACING, rel=1e-5)
    assert volume.tilt_degrees == pytest.approx(12, abs=1e-3)


# -- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cls", "slope"),
    [
        ("a.nii", nibabel.Nifti1Image, None),
        ("a.nii.gz", nibabel.Nifti1Image, 0.9),
        ("a.nii.gz", nibabel.Nifti2Image, 2.0),
    ],
    ids=["plain", "packed", "nifti-2"],
)
def test_a_nifti_file_is_known_by_its_content_and_its_scale_is_applied(
    name: str, cls: Any, slope: float | None, tmp_path: Path
) -> None:
    stored, affine = laid((0, 1, 2), (-1, -1, 1))
    path = write_nifti(tmp_path / "in" / name, stored, affine, cls, slope, None if slope is None else -10.0)
    path.rename(path.with_name("scan.bin"))
    done = run_import(tmp_path / "in", tmp_path / "out")
    assert done.exit_code == 0, done.output
    expected = phantom() if slope is None else np.round(phantom() * slope - 10, 3)
    found = read_slices(tmp_path / "out")
    assert sorted(found) == [0, 1, 2]
    for index, values in found.items():
        assert np.abs(values - np.clip(expected, -1024, 3071)[:, :, index].T).max() <= 0.05
    assert read_index(tmp_path / "out")[0]["spacing"] == "1 2 3"


def refused(path: Path, *words: str) -> str:
    """The reason for which nothing of a file is imported."""
    out = path.parent / f"out-{path.name}"
    done = run_import(path, out, *words)
    assert done.exit_code == 1, done.output
    (reason,) = json.loads((out / "import-report.json").read_text())["skipped"]
    return str(reason)


def test_what_is_no_volume_in_hounsfield_units_is_left_out_with_its_reason(tmp_path: Path) -> None:
    stored, affine = laid((0, 1, 2), (1, 1, 1))
    assert refused(write_nifti(tmp_path / "mask.nii", (stored > -600).astype(np.uint8), affine)) == "not-hounsfield"
    assert refused(write_nifti(tmp_path / "offset.nii", stored + 1024, affine)) == "not-hounsfield"
    assert refused(write_nifti(tmp_path / "series.nii", np.stack([stored] * 2, axis=3), affine)) == "not-3d"
    assert refused(write_nifti(tmp_path / "flat.nii", stored[:, :, 0], affine)) == "not-3d"
    assert refused(write_nifti(tmp_path / "complex.nii", stored.astype(np.complex64), affine)) == "colour"
    assert refused(write_nrrd(tmp_path / "nowhere.nrrd", stored, affine, **{"space directions": None})) == "no-geometry"
    assert refused(write_nrrd(tmp_path / "flat.nrrd", stored, np.diag([1.0, 0, 1, 1]))) == "no-geometry"
    nrrd.write(str(tmp_path / "detached.nhdr"), stored, {"space": "LPS", "space directions": np.eye(3)})
    assert refused(tmp_path / "detached.nhdr") == "detached"
    nowhere = nibabel.Nifti1Image(stored, None)
    nibabel.save(nowhere, tmp_path / "nowhere.nii")
    assert refused(tmp_path / "nowhere.nii") == "no-geometry"
    for name in ("cut.nii", "cut.nii.gz", "cut.nrrd"):
        path = (write_nrrd if name.endswith("nrrd") else write_nifti)(tmp_path / name, stored, affine)
        path.write_bytes(path.read_bytes()[:-40])
        assert refused(path) == "unreadable", name


def test_a_header_that_claims_more_than_a_scan_can_be_is_refused_before_it_is_read(tmp_path: Path) -> None:
    stored, affine = laid((0, 1, 2), (1, 1, 1))
    path = write_nifti(tmp_path / "bomb.nii", stored, affine)
    data = bytearray(path.read_bytes())
    data[42:48] = np.array([30_000] * 3, "<i2").tobytes()
    path.write_bytes(data)
    assert refused(path) == "too-large"


def test_a_volume_without_air_is_taken_when_asked(tmp_path: Path) -> None:
    stored, affine = laid((0, 1, 2), (1, 1, 1))
    path = write_nifti(tmp_path / "masked.nii", np.maximum(stored, -100), affine)
    assert refused(path) == "not-hounsfield"
    assert run_import(path, tmp_path / "out", "--no-value-check").exit_code == 0
    assert run_import(path, tmp_path / "mr", "--modality", "MR", "--scale", "1").exit_code == 0


def test_real_nifti_files_of_another_modality(tmp_path: Path) -> None:
    """What nibabel ships is MR: refused as a CT, imported as an MR."""
    assert refused_real("anatomical.nii", tmp_path) == "not-hounsfield"
    assert refused_real("example4d.nii.gz", tmp_path) == "not-3d"
    out = tmp_path / "out"
    done = run_import(NIBABEL / "anatomical.nii", out, "--modality", "MR", "--scale", "1")
    assert done.exit_code == 0, done.output
    image: Any = nibabel.as_closest_canonical(nibabel.load(NIBABEL / "anatomical.nii"))
    expected = np.asarray(image.dataobj)[::-1, ::-1]  # RAS to LPS
    for index, values in read_slices(out).items():
        assert np.array_equal(np.rint(values * 10), expected[:, :, index].T)
    assert read_index(out)[0]["spacing"] == "2 2 2"


def refused_real(name: str, tmp_path: Path) -> str:
    link = tmp_path / name
    link.symlink_to(NIBABEL / name)
    return refused(link)


# -- names ------------------------------------------------------------------------------------------------------


def test_names_of_files_are_hashed_and_folders_may_stand_for_patients(tmp_path: Path) -> None:
    stored, affine = laid((0, 1, 2), (1, 1, 1))
    for number, name in enumerate(("Anna/ct/first.nii", "Anna/second.nii", "Berta/first.nrrd")):
        (write_nrrd if name.endswith("nrrd") else write_nifti)(
            tmp_path / "in" / name, stored + np.int16(number), affine
        )
    for words, patients in ((["--patient-from", "file"], 3), (["--patient-from", "folder"], 2)):
        out = tmp_path / f"out{patients}"
        assert run_import(tmp_path / "in", out, *words).exit_code == 0
        rows = read_index(out)
        assert len({row["patient"] for row in rows}) == patients
        assert len({row["series_dir"] for row in rows}) == len({row["study"] for row in rows}) == 3
        everything = "\n".join([*(str(path) for path in out.rglob("*")), (out / "index.csv").read_text(),
                                *(path.read_text() for path in out.rglob("*.json"))])  # fmt: skip
        assert not [name for name in ("Anna", "Berta", "first", "second") if name in everything]


def test_names_that_are_public_stay_when_asked(tmp_path: Path) -> None:
    stored, affine = laid((0, 1, 2), (1, 1, 1))
    write_nrrd(tmp_path / "in" / "lung 1.nrrd", stored, affine)
    write_nifti(tmp_path / "in" / "lung2.nii.gz", stored, affine)
    assert run_import(tmp_path / "in", tmp_path / "out", "--keep-names", "--patient-from", "file").exit_code == 0
    assert {(row["series_dir"], row["patient"]) for row in read_index(tmp_path / "out")} == {
        ("lung_1", "lung_1"),
        ("lung2", "lung2"),
    }
    write_nrrd(tmp_path / "in" / "more" / "lung2.nrrd", stored, affine)
    done = run_import(tmp_path / "in", tmp_path / "out2", "--keep-names")
    assert done.exit_code == 2
    assert "would both be lung2" in done.output


# -- numbers ----------------------------------------------------------------------------------------------------

finite = st.floats(-5000, 5000, allow_nan=False)


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=1, max_dims=2, max_side=8), elements=finite))
def test_hounsfield_units_read_back_within_half_a_step(values: npt.NDArray[np.float64]) -> None:
    stored = CT.encode(values)
    assert stored.dtype == np.uint16
    assert np.abs(CT.decode(stored) - np.clip(values, -1024, 3071)).max() <= 0.05 + 1e-9
    assert np.array_equal(CT.encode(CT.decode(stored)), stored)


@given(finite, finite)
def test_more_is_never_stored_as_less(a: float, b: float) -> None:
    low, high = CT.encode(np.array(sorted((a, b))))
    assert low <= high


@given(st.integers(-1024, 3071))
def test_whole_hounsfield_units_are_exact_as_the_predecessor_reads_them(value: int) -> None:
    (stored,) = CT.encode(np.array([float(value)]))
    assert stored == value * 10 + 32768
    assert (float(stored) - 32768) * 0.1 == pytest.approx(value, abs=1e-9)


def test_what_is_no_number_becomes_air_and_nothing_wraps() -> None:
    values = np.array([np.nan, -np.inf, np.inf, -1e9, 1e9])
    assert CT.decode(CT.encode(values)).round(3).tolist() == [-1024, -1024, 3071, -1024, 3071]


@given(st.floats(1e-3, 100), finite)
def test_any_scale_stays_within_16_bits(scale: float, value: float) -> None:
    for modality in ("CT", "MR") if scale >= 0.0938 else ("MR",):
        encoding = other_encoding(modality, scale)
        (back,) = encoding.decode(encoding.encode(np.array([value])))
        assert abs(back - min(max(value, encoding.low), encoding.high)) <= scale * 0.5000001


@given(hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)), st.integers(0, 9))
def test_any_decoder_reads_the_png_files_back(pixels: npt.NDArray[np.uint16], level: int) -> None:
    with Image.open(io.BytesIO(encode_png(pixels, level))) as image:
        image.load()
        assert image.mode == "I;16"
        assert image.info == {}
        assert np.array_equal(np.array(image), pixels)


@given(st.lists(st.text(max_size=4), max_size=3), st.lists(st.text(max_size=4), max_size=3))
def test_other_texts_have_another_digest(a: list[str], b: list[str]) -> None:
    names = Pseudonyms(b"0123456789abcdef")
    assert (names.digest("x", *a) == names.digest("x", *b)) == (a == b)
    assert names.of("patient", "1") != names.of("study", "1") != Pseudonyms(b"another salt....").of("study", "1")
