"""`bigrun data pack`: the packed form is the source bit for bit, whatever happens while it is written."""

from __future__ import annotations

import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from data_sets import cut_short, data, data_json, mixed_folder, noise, read_only, save
from disks import file_size_limit, small_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from bigrun.data.faults import BadImageError
from bigrun.data.files import Entry, Files, open_files
from bigrun.data.files.listed import ListedFiles
from bigrun.data.folder import ImageFolder
from bigrun.data.pack import files as packed_files
from bigrun.data.pack.files import PackedFiles
from bigrun.data.pack.marker import MARKER, TABLES
from bigrun.data.pack.shards import HEADER, map_shard
from bigrun.data.pack.write import write_pack
from bigrun.errors import DataIndexError, ExitCode
from bigrun.markers import hookimpl
from bigrun.run import Run
from bigrun.testing.runner import Runner


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return mixed_folder(tmp_path / "images")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "packed"


def told(files: Files, number: int) -> Tensor | tuple[str, str]:
    """The image, or what is wrong with its file."""
    try:
        return files[number]
    except BadImageError as error:
        return error.cause, error.message


def assert_same(source: Files, packed: Files) -> None:
    """Every file is the same, those that are bad included."""
    assert isinstance(packed, PackedFiles)
    assert len(packed) == len(source)
    for number in range(len(source)):
        assert packed.path(number) == source.path(number)
        expected, found = told(source, number), told(packed, number)
        if isinstance(expected, Tensor):
            assert isinstance(found, Tensor)
            assert found.dtype == expected.dtype
            assert found.equal(expected)
        else:
            assert found == expected


# -- bit for bit ------------------------------------------------------------------------------------------------------


def test_a_packed_folder_is_the_folder(root: Path, out: Path) -> None:
    cut_short(root / "a" / "2.png")
    report = data_json("pack", root, out)
    assert report["files"] == 9
    assert [fault["path"] for fault in report["faults"]] == ["a/2.png"]
    assert_same(ImageFolder.search(root).files, ImageFolder.search(out).files)
    assert ImageFolder.search(out).summary() == "9 files, packed"


def test_what_an_index_leaves_out_is_left_out(root: Path, out: Path) -> None:
    cut_short(root / "a" / "2.png")
    data("index", root, "--decode")
    data("pack", root, out)
    source, packed = ImageFolder.search(root).files, ImageFolder.search(out).files
    assert len(packed) == 8
    assert_same(source, packed)
    assert [(error.cause, error.message) for error in packed.faults] == [(e.cause, e.message) for e in source.faults]
    assert packed.content_hash == source.content_hash
    hashes = packed.hashes()
    assert hashes is not None
    assert np.array_equal(hashes, source.hashes())


def test_what_was_packed_is_called_as_its_index_is(root: Path, tmp_path: Path) -> None:
    """Without an index: as the one that decodes, for packing does, too."""
    cut_short(root / "a" / "2.png")
    data("pack", root, tmp_path / "plain")
    hashes = []
    for words in ((), ("--decode",)):
        data("index", root, *words)
        data("pack", root, tmp_path / f"packed{len(words)}")
        packed = ImageFolder.search(tmp_path / f"packed{len(words)}").files
        assert packed.content_hash == ImageFolder.search(root).files.content_hash
        hashes.append(packed.content_hash)
    assert hashes[0] != hashes[1] == ImageFolder.search(tmp_path / "plain").files.content_hash


def test_what_only_decoding_finds_keeps_its_number(root: Path, out: Path) -> None:
    cut_short(root / "a" / "2.png")
    data("index", root)
    data("pack", root, out)
    source, packed = ImageFolder.search(root).files, ImageFolder.search(out).files
    assert len(packed) == 9
    assert_same(source, packed)
    assert packed.content_hash == source.content_hash


shapes = st.tuples(st.integers(1, 7), st.integers(1, 7))
pictures = st.one_of(
    shapes.flatmap(lambda shape: arrays.arrays(np.uint8, shape)),
    shapes.flatmap(lambda shape: arrays.arrays(np.uint16, shape)),
    shapes.flatmap(lambda shape: arrays.arrays(np.uint8, (*shape, 3))),
    st.tuples(st.just(5), st.integers(4, 7), st.integers(4, 7)).flatmap(
        lambda shape: arrays.arrays(np.float32, shape, elements=st.floats(0, 1, width=32))
    ),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(pictures, min_size=1, max_size=12), st.sampled_from([64, 128, 1 << 12]), st.data())
def test_any_shapes_and_dtypes_in_any_shards(
    tmp_path_factory: pytest.TempPathFactory, images: list[np.ndarray], shard_bytes: int, choose: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("any")
    for number, image in enumerate(images):
        np.save(place / f"{number}.npy", image) if image.dtype == np.float32 else save(place / f"{number}.png", image)
    names = [f"{number}.{'npy' if image.dtype == np.float32 else 'png'}" for number, image in enumerate(images)]
    entries = [Entry(name, {"series": f"s{n // 2}", "z": n, "spacing": n / 2}) for n, name in enumerate(names)]
    source = open_files(place, lambda: entries, channels=5)
    assert isinstance(source, ListedFiles)
    write_pack(source, place / "packed", shard_bytes=shard_bytes)
    packed = open_files(place / "packed", list, channels=5)
    assert_same(source, pickle.loads(pickle.dumps(packed)))
    assert packed.columns == source.columns
    for name in source.columns:
        assert packed.column(name).tolist() == source.column(name).tolist()
    for shard in (place / "packed").glob("shard-*.npy"):
        flat = np.load(shard)
        assert flat.dtype == np.uint8
        assert flat.nbytes + HEADER == shard.stat().st_size
        assert flat.nbytes <= max(shard_bytes, max(-(-image.nbytes // 64) * 64 for image in images))
    number = choose.draw(st.integers(0, len(images) - 1))
    assert packed[number].data_ptr() % 64 == 0


def test_arrays_depend_on_the_models_channels_and_are_packed_for_it(tmp_path: Path, out: Path) -> None:
    np.save(tmp_path / "i.npy", np.zeros((4, 5, 3), np.uint8))
    source = open_files(tmp_path, lambda: [Entry("i.npy")], channels=3)
    assert isinstance(source, ListedFiles)
    write_pack(source, out)
    assert open_files(out, list, channels=3)[0].shape == (3, 4, 5)
    with pytest.raises(DataIndexError, match=r"made for model\.in_channels = 3, which is 4 now"):
        open_files(out, list, channels=4)


def test_nothing_is_copied_and_nothing_can_be_changed(root: Path, out: Path) -> None:
    data("pack", root, out)
    files = ImageFolder.search(out).files
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays that are not writable
        first, again = files[0], files[0]
    assert first.data_ptr() == again.data_ptr()
    shard = map_shard(out / "shard-00000.npy")
    child = f"from bigrun.data.folder import ImageFolder; ImageFolder.search({str(out)!r}).files[0].zero_()"
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, check=False)
    assert done.returncode == -signal.SIGSEGV
    assert map_shard(out / "shard-00000.npy").equal(shard)
    assert first.equal(ImageFolder.search(root)[0])


def test_more_shards_than_may_be_open(root: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ImageFolder.search(root).files
    assert isinstance(source, ListedFiles)
    write_pack(source, out, shard_bytes=64)
    assert len(list(out.glob("shard-*.npy"))) == 9
    monkeypatch.setattr(packed_files, "OPEN_SHARDS", 2)
    packed = ImageFolder.search(out).files
    held = [packed[number] for number in range(9)]
    assert all(image.equal(source[number]) for number, image in enumerate(held)), "what is held stays mapped"


def test_a_packed_form_on_a_read_only_disk(root: Path, out: Path) -> None:
    data("pack", root, out)
    with read_only(out):
        assert_same(ImageFolder.search(root).files, ImageFolder.search(out).files)
        assert "verified, 9 images" in data("verify", out).output


# -- training ---------------------------------------------------------------------------------------------------------


def test_a_training_takes_the_same_batches(bigrunner: Runner, root: Path, out: Path) -> None:
    """One of nine files is damaged: the same one comes in its place."""
    cut_short(root / "a" / "3.png")
    (root / "b" / "unit.tif").unlink()
    data("pack", root, out)
    losses = []
    for path in (root, out):
        result = bigrunner.run(steps=4, dataset=False, data={"path": str(path)})
        result.assert_finished()
        losses.append(result.losses)
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]


class Pairs:
    """Two neighbouring slices of a series as channels: a source with columns, whose samples are not its files."""

    def __init__(self, root: Path) -> None:
        self.files = open_files(root, lambda: self.entries(root), fingerprint=lambda: (root / "table").read_text())
        series, z = self.files.column("series"), self.files.column("z")
        place = {pair: number for number, pair in enumerate(zip(series, z, strict=True))}
        self.next = [place.get((s, k + 1), number) for number, (s, k) in enumerate(zip(series, z, strict=True))]

    def entries(self, root: Path) -> Iterator[Entry]:
        for line in (root / "table").read_text().splitlines():
            path, series, z = line.split(",")
            yield Entry(path, {"series": series, "z": int(z)})

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Tensor:
        return torch.cat([self.files[index], self.files[self.next[index]], self.files[index]])


class BringPairs:
    @hookimpl
    def build_dataset(self, run: Run) -> Pairs:
        return Pairs(Path(run.config.data.path or ""))


def test_a_training_from_a_source_with_columns_takes_the_same_batches(
    bigrunner: Runner, tmp_path: Path, out: Path
) -> None:
    root = tmp_path / "series"
    lines = [f"{n}.png,s{n % 3},{n // 3}" for n in range(12)]
    for number in range(12):
        save(root / f"{number}.png", noise(40, 44, "I;16", seed=number))
    (root / "table").write_text("\n".join(lines))
    losses = []
    source = Pairs(root).files
    assert isinstance(source, ListedFiles)
    write_pack(source, out)
    for path in (root, out):
        result = bigrunner.run(steps=4, dataset=False, data={"path": str(path)}, companions=[BringPairs()])
        result.assert_finished()
        losses.append(result.losses)
    assert losses[0] == losses[1]


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten(root: Path, out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    refused = data("pack", root, out)
    assert refused.exit_code == ExitCode.USAGE
    assert "holds something else" in refused.output
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    (out / "thesis.tex").unlink()
    data("pack", root, out)
    again = data("pack", root, out)
    assert again.exit_code == ExitCode.USAGE
    assert "is packed already; `bigrun data verify`" in again.output
    assert "lies in the folder of the data set" in data("pack", root, root / "packed").output
    assert not (root / "packed").exists()
    assert "packed already" in data("pack", out, root.parent / "twice").output
    assert "packed already" in data("index", out).output
    with pytest.raises(DataIndexError, match=r"data\.index: .* has no effect"):
        ImageFolder.search(out, index=root / "index")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(root: Path, tmp_path: Path) -> None:
    for number in range(40):
        save(root / "large" / f"{number}.png", np.zeros((400, 400, 3), np.uint8))
    with small_disk(tmp_path / "disk", 10) as disk:
        for said in ("take about 1", "take 19.2 MB"):  # without an index, and with one
            refused = data("pack", root, disk / "packed")
            assert refused.exit_code == ExitCode.USAGE
            assert said in refused.output
            assert not list(disk.glob("packed/shard*"))
            shutil.rmtree(disk / "packed")
            data("index", root)


def test_a_disk_that_refuses_loses_nothing(root: Path, out: Path) -> None:
    for number in range(30):
        save(root / "c" / f"{number}.png", noise(40, 40, seed=number))
    with file_size_limit(60_000):
        refused = data("pack", root, out)
    assert refused.exit_code == ExitCode.USAGE
    assert "cannot be written" in refused.output
    assert not (out / MARKER).exists()
    assert data("pack", root, out).exit_code == 0
    assert_same(ImageFolder.search(root).files, ImageFolder.search(out).files)


def test_a_file_that_has_changed_since_it_was_indexed_is_not_packed(root: Path, out: Path) -> None:
    data("index", root)
    files = ImageFolder.search(root).files
    assert isinstance(files, ListedFiles)
    save(root / "a" / "3.png", noise(5, 5))
    with pytest.raises(DataIndexError, match=r"a/3\.png: another file than when it was indexed"):
        write_pack(files, out)


def test_damage_is_found(root: Path, out: Path) -> None:
    source = data("verify", root)
    assert source.exit_code == ExitCode.USAGE
    assert "no packed data set" in source.output
    data("pack", root, out)
    assert data("verify", out).exit_code == 0
    shard = out / "shard-00000.npy"
    pixels = bytearray(shard.read_bytes())
    pixels[HEADER + 100] ^= 1
    shard.write_bytes(pixels)
    found = data("verify", out)
    assert found.exit_code == ExitCode.USAGE
    assert "1 of 9 images are not what was written (first: a/0.png)" in found.output
    shard.write_bytes(pixels[:-1])
    with pytest.raises(DataIndexError, match=r"shard-00000\.npy has \d+ bytes, expected \d+"):
        ImageFolder.search(out)
    shard.unlink()
    with pytest.raises(DataIndexError, match="damaged packed form"):
        ImageFolder.search(out)


def test_a_packed_form_that_is_not_complete_is_no_data_set(root: Path, out: Path) -> None:
    data("pack", root, out)
    (out / MARKER).unlink()
    with pytest.raises(DataIndexError, match="not complete; the same `bigrun data pack` goes on with it"):
        ImageFolder.search(out)
    assert data("pack", root, out).exit_code == 0
    assert_same(ImageFolder.search(root).files, ImageFolder.search(out).files)


def test_it_goes_on_with_the_same_files_only(root: Path, out: Path) -> None:
    data("pack", root, out)
    (out / MARKER).unlink()
    save(root / "a" / "another.png", noise(4, 4))
    refused = data("pack", root, out)
    assert refused.exit_code == ExitCode.USAGE
    assert "begun there with other files" in refused.output


# -- kills ------------------------------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from bigrun.data.folder import ImageFolder
from bigrun.data.pack import write
write.COMMIT_SECONDS = 0
write.write_pack(ImageFolder.search(sys.argv[1]).files, Path(sys.argv[2]), shard_bytes=200_000)
"""


def rows(out: Path) -> int:
    """Files that are said to be on the disk."""
    if not (out / TABLES).is_file():
        return 0
    with closing(sqlite3.connect(out / TABLES)) as tables:  # may have to take back what a killed process had begun
        return int(tables.execute("SELECT count(*) FROM files").fetchone()[0])


def test_after_a_kill_it_goes_on_where_it_stopped(tmp_path: Path, out: Path) -> None:
    root = tmp_path / "images"
    for number in range(200):
        save(root / f"{number:03d}.png", noise(60 + number % 5, 70, seed=number), compress_level=0)
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(root), str(out)])
    while len(list(out.glob("shard-*.npy"))) < 4 and child.poll() is None:
        time.sleep(0.001)
    child.kill()
    child.wait()
    assert child.returncode == -signal.SIGKILL, "it was done before it could be killed"
    assert 0 < rows(out) < 200
    assert not (out / MARKER).exists()
    (out / "shard-00099.npy").write_bytes(b"of a process that was killed before it said so")
    source = ImageFolder.search(root).files
    assert isinstance(source, ListedFiles)
    write_pack(source, out, shard_bytes=200_000)
    assert_same(source, ImageFolder.search(out).files)
    straight = tmp_path / "straight"
    write_pack(source, straight, shard_bytes=200_000)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in straight.iterdir())
    for shard in straight.glob("shard-*"):
        assert (out / shard.name).read_bytes() == shard.read_bytes()
