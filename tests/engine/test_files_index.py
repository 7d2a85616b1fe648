"""`bigrun data index`: what it knows, when it is believed, and what a kill leaves."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from data_sets import cut_short, data, data_json, mixed_folder, noise, read_only, save
from disks import file_size_limit
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bigrun.data.decode import read_image
from bigrun.data.faults import BadImageError
from bigrun.data.files import Entry, Files, open_files
from bigrun.data.files.index import build_index, index_place
from bigrun.data.files.indexed import IndexedFiles
from bigrun.data.files.listed import ListedFiles
from bigrun.data.files.probe import header_shape
from bigrun.data.files.recorded import sources
from bigrun.data.files.report import IndexReport
from bigrun.data.files.schema import INDEX
from bigrun.data.folder import ImageFolder
from bigrun.errors import DataIndexError, ExitCode


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return mixed_folder(tmp_path / "images")


def rows(index: Path, names: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(index)) as connection:
        return connection.execute(f"SELECT {names} FROM files ORDER BY row").fetchall()


def same_files(one: Files, other: Files) -> bool:
    names = [[files.path(number) for number in range(len(files))] for files in (one, other)]
    return names[0] == names[1] and all(
        one[n].equal(other[n]) and one[n].dtype == other[n].dtype for n in range(len(one))
    )


# -- what it knows ----------------------------------------------------------------------------------------------------


def test_an_index_gives_the_files_that_the_search_gives(root: Path) -> None:
    before = ImageFolder.search(root)
    report = data_json("index", root)
    after = ImageFolder.search(root)
    assert isinstance(after.files, IndexedFiles)
    assert same_files(before.files, after.files)
    assert after.paths == before.paths
    assert before.summary() == "9 files"
    assert after.summary() == f"9 files, as indexed in {root / INDEX}"
    assert report["files"] == 9
    assert report["faults"] == []
    assert {(kind["channels"], kind["dtype"], kind["files"]) for kind in report["kinds"]} == {
        (3, "uint8", 6), (1, "uint8", 1), (1, "uint16", 1), (1, "float32", 1)
    }  # fmt: skip
    assert report["duplicates"] == [["a/0.png", "a/same.png"]]
    assert report["content_sha256"] == after.files.content_hash


def test_each_row_is_what_the_file_is(root: Path) -> None:
    data("index", root)
    index = root / INDEX
    for path, size, mtime_ns, width, height, channels, dtype, sha256 in rows(
        index, "path, bytes, mtime_ns, width, height, channels, dtype, sha256"
    ):
        status = (root / path).stat()
        assert (size, mtime_ns) == (status.st_size, status.st_mtime_ns)
        image = read_image(str(root / path))
        assert (channels, height, width, f"torch.{dtype}") == (*image.shape, str(image.dtype))
        assert sha256 == hashlib.sha256((root / path).read_bytes()).digest()
    hashes = ImageFolder.search(root).files.hashes()
    assert hashes is not None
    assert hashes.shape == (9, 32)
    assert [row.tobytes() for row in hashes] == [sha256 for (sha256,) in rows(index, "sha256")]


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr")


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    form=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP"]),
    orientation=st.sampled_from([None, 1, 3, 6, 8]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_a_header_says_what_decoding_gives(
    tmp_path_factory: pytest.TempPathFactory, mode: str, form: str, orientation: int | None, size: tuple[int, int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "probed"
    options: dict[str, Any] = {}
    if orientation is not None and form in ("PNG", "JPEG", "WEBP"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    try:
        Image.new(mode, size).save(path, format=form, **options)
    except (OSError, ValueError):  # the format has no such mode
        return
    shape = header_shape(path.read_bytes())
    assert shape is not None, "decoded, but it need not be"
    image = read_image(str(path))
    assert (shape.channels, shape.height, shape.width) == tuple(image.shape)
    assert f"torch.{shape.dtype}" == str(image.dtype)


def test_bad_files_are_left_out_and_said(root: Path) -> None:
    (root / "a" / "empty.png").touch()
    cut_short(root / "a" / "1.png")
    report = data_json("index", root)
    assert [(fault["path"], fault["cause"]) for fault in report["faults"]] == [("a/empty.png", "empty")]
    assert report["files"] == 9
    thorough = data_json("index", root, "--decode")  # the header of a/1.png is whole
    assert {(fault["path"], fault["cause"]) for fault in thorough["faults"]} == {
        ("a/empty.png", "empty"),
        ("a/1.png", "truncated"),
    }
    files = ImageFolder.search(root).files
    assert len(files) == 8
    assert "a/1.png" not in [files.path(number) for number in range(8)]
    assert {(error.path, error.cause) for error in files.faults} == {
        (str(root / "a" / "empty.png"), "empty"),
        (str(root / "a" / "1.png"), "truncated"),
    }
    quick = data_json("index", root)
    assert len(quick["faults"]) == 2, "what --decode has found stays found"
    save(root / "a" / "1.png", noise(20, 24))
    assert len(data_json("index", root)["faults"]) == 1


def of_source(root: Path, entries: list[Entry], fingerprint: Callable[[], str] | None = None) -> IndexReport:
    with sources() as heard:
        open_files(root, lambda: entries, fingerprint=fingerprint)
    (source,) = heard
    assert isinstance(source.files, ListedFiles)
    return build_index(source, source.files.table, index_place(source))


def test_the_hash_of_the_content_is_the_same_in_any_order_and_any_place(root: Path, tmp_path: Path) -> None:
    paths = [str(path.relative_to(root)) for path in root.rglob("*.*")]
    hashes = set()
    for turn in range(3):
        random.Random(turn).shuffle(paths)
        place = shutil.copytree(root, tmp_path / f"copy{turn}", ignore=shutil.ignore_patterns("bigrun*"))
        hashes.add(of_source(place, [Entry(path) for path in paths]).content_hash)
        files = open_files(place, list)
        assert [files.path(number) for number in range(len(files))] == paths, "the order is the source's"
    assert len(hashes) == 1
    (root / "b" / "photo.jpg").rename(root / "b" / "renamed.jpg")
    assert of_source(root, [Entry(str(p.relative_to(root))) for p in root.rglob("*.*")]).content_hash not in hashes


values = st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5))
numbers = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(values, numbers, st.integers(-(2**40), 2**40)), max_size=20))
def test_columns_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str | None, float | None, int]]
) -> None:
    root = tmp_path_factory.mktemp("columns")
    save(root / "one.png", noise(2, 2))
    names = ('pat"ient', "spacing", "slice_index")
    entries = [Entry("one.png", dict(zip(names, row, strict=True))) for row in rows]
    plain = open_files(root, lambda: entries)
    of_source(root, entries)
    indexed = open_files(root, list)
    assert indexed.columns == plain.columns
    for name in plain.columns:
        assert indexed.column(name).dtype == plain.column(name).dtype
        assert np.array_equal(indexed.column(name), plain.column(name), equal_nan=plain.column(name).dtype == float)


def test_names_that_are_no_utf8_are_found_again(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    save(tmp_path / name, noise(4, 4))
    save(tmp_path / "ü.png", noise(4, 4))
    assert data("index", tmp_path).exit_code == 0
    files = ImageFolder.search(tmp_path).files
    assert {files.path(0), files.path(1)} == {name, "ü.png"}
    assert data_json("index", tmp_path)["changes"]["kept"] == 2


# -- again ------------------------------------------------------------------------------------------------------------


def test_a_second_index_says_what_is_new(root: Path) -> None:
    assert data_json("index", root)["changes"] is None
    save(root / "c" / "new.png", noise(9, 9))
    save(root / "a" / "2.png", noise(9, 9, seed=5))
    (root / "a" / "3.png").unlink()
    assert data_json("index", root)["changes"] == {"added": 1, "changed": 1, "lost": 1, "kept": 7}
    assert "1 added" not in data("index", root).output


def test_only_what_is_new_is_read(root: Path) -> None:
    data("index", root)
    untouched, touched = root / "a" / "1.png", root / "a" / "2.png"
    before = untouched.stat()
    untouched.write_bytes(untouched.read_bytes()[:-1] + b"?")  # of the same size and time: only reading would tell
    os.utime(untouched, ns=(before.st_atime_ns, before.st_mtime_ns))
    touched.write_bytes(touched.read_bytes()[:-20])
    report = data_json("index", root)
    assert report["changes"] == {"added": 0, "changed": 1, "lost": 0, "kept": 8}


# -- when it is believed ----------------------------------------------------------------------------------------------


def refused(root: Path) -> str:
    result = data("pack", root, root.parent / "packed")
    assert result.exit_code == ExitCode.USAGE, result.output
    assert not (root.parent / "packed").exists()
    return result.output


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda root: (root / "a" / "2.png").write_bytes(b"short"), r"1 changed \(first: a/2.png\)"),
        (lambda root: (root / "a" / "2.png").unlink(), "lists other files"),
        (lambda root: save(root / "a" / "new.png", noise(4, 4)), "lists other files"),
        (lambda root: (root / "a" / "0.png").rename(root / "a" / "zero.png"), "lists other files"),
        (lambda root: (root / INDEX).write_bytes(b"no index"), "not an index that this bigrun reads"),
        (lambda root: cut_short(root / INDEX), "not an index that this bigrun reads"),
    ],
)
def test_an_index_that_is_out_of_date_is_refused(root: Path, harm: Callable[[Path], object], said: str) -> None:
    data("index", root)
    harm(root)
    output = refused(root)
    assert re.search(said, output)
    assert "again" in output
    assert data("index", root).exit_code == 0
    ImageFolder.search(root)


def test_an_index_of_another_format_is_refused(root: Path) -> None:
    data("index", root)
    with closing(sqlite3.connect(root / INDEX)) as connection:
        connection.execute("UPDATE meta SET value = '999' WHERE key = 'format'")
        connection.commit()
    assert "its format is '999', expected '1'" in refused(root)


def test_files_that_vanish_are_counted(root: Path) -> None:
    entries = [Entry(f"a/{number}.png") for number in range(5)]
    of_source(root, entries, fingerprint=lambda: "table")
    (root / "a" / "1.png").unlink()
    (root / "a" / "3.png").write_bytes(b"no")
    with pytest.raises(
        DataIndexError, match=r"of 5 files that were looked at, 1 changed, 1 missing \(first: a/1\.png\)"
    ):
        open_files(root, list, fingerprint=lambda: "table")


def test_a_copy_with_other_times_is_the_same_data_set(root: Path, tmp_path: Path) -> None:
    data("index", root)
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    for path in copy.rglob("*.*"):
        os.utime(path, ns=(0, 0))
    assert ImageFolder.search(copy).files.content_hash == ImageFolder.search(root).files.content_hash
    path = copy / "a" / "1.png"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataIndexError, match="1 changed"):
        ImageFolder.search(copy)


def test_an_index_of_another_source_is_refused(root: Path) -> None:
    of_source(root, [Entry("a/0.png")], fingerprint=lambda: "one")
    assert len(open_files(root, list, fingerprint=lambda: "one")) == 1
    with pytest.raises(DataIndexError, match="the source lists other files"):
        open_files(root, list, fingerprint=lambda: "two")
    with pytest.raises(DataIndexError, match="the source lists other files"):
        open_files(root, list)


def test_an_index_without_what_the_source_says_is_not_to_be_made_again_as_it_was(root: Path) -> None:
    """Nor the other way round: the same command would make the same index."""
    named = [Entry("a/0.png", {"series": "s"}), Entry("a/1.png", {"series": "s"})]
    data("index", root)
    with pytest.raises(DataIndexError) as caught:
        open_files(root, lambda: named, fingerprint=lambda: "table")
    message = str(caught.value)
    assert "it has no columns, and they have the columns series" in message
    assert re.search(r"made by `.*`bigrun data index PRESET`, or `bigrun data index .* --plugin NAME`", message)
    assert "again" not in message
    of_source(root, named, fingerprint=lambda: "table")
    assert len(open_files(root, list, fingerprint=lambda: "table")) == 2
    with pytest.raises(DataIndexError, match="it has the columns series, and they have no columns"):
        ImageFolder.search(root)
    with pytest.raises(DataIndexError, match="lists other files"):
        open_files(root, lambda: named[:1], fingerprint=lambda: "shorter table")


def test_what_is_no_part_of_the_data_set_changes_nothing(root: Path) -> None:
    """But a start takes longer, and says so: that they are none is known when all files were looked at."""
    data("index", root, "--out", root / "index of mine")
    data("split", root, "--out", root / "split.json")
    (root / ".DS_Store").touch()
    (root / "a" / "._0.png").write_bytes(b"\0\5\x16\7")
    folder = ImageFolder.search(root, index=root / "index of mine")
    assert isinstance(folder.files, IndexedFiles)
    assert len(folder) == 9
    assert re.search(
        ", and listed anew since other files have come or gone: `.*` spares that; 4 other", folder.summary()
    )


@pytest.mark.parametrize("name", [".hidden.png", "bigrun-logo.png", "photo.txt"])
def test_whatever_a_search_would_take_makes_the_index_stale(root: Path, name: str) -> None:
    data("index", root)
    Image.fromarray(noise(9, 9)).save(root / name, format="PNG")
    with pytest.raises(DataIndexError, match="lists other files"):
        ImageFolder.search(root)
    data("index", root)
    assert len(ImageFolder.search(root)) == 10


def test_the_index_of_a_source_without_a_fingerprint_knows_when_files_come(root: Path) -> None:
    def listed() -> list[Entry]:
        return [Entry(str(path.relative_to(root)), {"kind": path.suffix}) for path in sorted(root.rglob("*.png"))]

    of_source(root, listed())
    (root / "notes.txt").touch()
    assert len(open_files(root, listed)) == 7
    save(root / "new.png", noise(9, 9))
    with pytest.raises(DataIndexError, match="lists other files"):
        open_files(root, listed)


def test_a_table_that_says_the_same_in_other_words_is_the_same(root: Path) -> None:
    """Columns and their order count, and values that are not known."""
    values: list[dict[str, Any]] = [
        {"series": "s", "z": 1, "mm": 0.5}, {"series": None, "z": 2, "mm": None}, {"series": "t", "z": 3, "mm": 2}
    ]  # fmt: skip
    refused = Entry("no.png", fault=BadImageError("no.png", "other", "its row is wrong"))
    entries = [*(Entry(f"a/{number}.png", columns) for number, columns in enumerate(values)), refused]
    of_source(root, entries, fingerprint=lambda: "one")
    files = open_files(root, lambda: entries, fingerprint=lambda: "two")
    assert files.column("series").tolist() == ["s", None, "t"]
    others: list[list[Entry]] = [
        entries[:3],
        [*entries[1::-1], *entries[2:]],
        [Entry("a/0.png", values[0] | {"z": 9}), *entries[1:]],
        [Entry("a/0.png", values[0] | {"series": "t"}), *entries[1:]],
        [Entry("a/0.png", values[0] | {"mm": None}), *entries[1:]],
        [*entries[:2], Entry("a/2.png", fault=refused.fault), refused],
    ]
    for other in others:
        with pytest.raises(DataIndexError, match="lists other files"):
            open_files(root, partial(list, other), fingerprint=lambda: "two")


@pytest.mark.parametrize("name", ["a/1.png", "page.png"])
def test_files_that_were_repaired_are_not_left_out_for_ever(root: Path, name: str) -> None:
    """Neither those that were damaged inside nor those that were none."""
    cut_short(root / "a" / "1.png")
    (root / "page.png").write_text("<html>404</html>")
    data("index", root, "--decode")
    assert len(ImageFolder.search(root)) == 8
    shutil.copy(root / "a" / "2.png", root / name)
    with pytest.raises(DataIndexError, match=f"1 files that it leaves out are not as they were .first: {name}.; run"):
        ImageFolder.search(root)
    data("index", root)
    assert len(ImageFolder.search(root)) == 9


def test_a_file_that_was_missing_is_looked_for_again(root: Path) -> None:
    entries = [Entry("a/0.png"), Entry("later.png")]
    of_source(root, entries, fingerprint=lambda: "table")
    assert len(open_files(root, list, fingerprint=lambda: "table")) == 1
    save(root / "later.png", noise(9, 9))
    with pytest.raises(DataIndexError, match=r"not as they were \(first: later\.png\)"):
        open_files(root, list, fingerprint=lambda: "table")
    of_source(root, entries, fingerprint=lambda: "table")
    assert len(open_files(root, list, fingerprint=lambda: "table")) == 2


def test_what_a_source_refuses_is_looked_at_again_when_it_is_another_file(root: Path) -> None:
    """And then it is for the source to say what becomes of it."""
    refused = BadImageError(str(root / "b" / "deep.png"), "other", "its row is wrong")
    entries = [Entry("a/0.png"), Entry("b/deep.png", fault=refused)]
    of_source(root, entries, fingerprint=lambda: "table")
    assert len(open_files(root, list, fingerprint=lambda: "table")) == 1
    os.utime(root / "b" / "deep.png", ns=(0, 0))  # a copy
    assert len(open_files(root, list, fingerprint=lambda: "table")) == 1
    save(root / "b" / "deep.png", noise(9, 9))
    with pytest.raises(DataIndexError, match=r"not as they were \(first: b/deep\.png\)"):
        open_files(root, list, fingerprint=lambda: "table")
    of_source(root, entries, fingerprint=lambda: "table")
    assert len(open_files(root, list, fingerprint=lambda: "table")) == 1


def test_a_check_decodes_all_that_an_index_leaves_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.png", "a/2.png", "a/3.png"):
        cut_short(root / name)
    data("index", root, "--decode")
    monkeypatch.setattr("bigrun.data.files.freshness.SAMPLE", 1)  # a start looks at one
    save(root / "a" / "2.png", noise(9, 9))
    assert len(ImageFolder.search(root)) == 6
    result = data("check", root, "--set", "data.max_bad_fraction=0.9")
    assert result.exit_code == ExitCode.ERROR
    assert "index-out-of-date: 1 files that the index leaves out are not as they were: a/2.png; run" in result.output


def test_an_index_with_arrays_is_for_a_model_of_so_many_channels(root: Path) -> None:
    """For they tell the axes of an array; a second index for others reads the arrays again, and nothing else."""
    np.save(root / "i.npy", np.zeros((4, 5, 3), np.uint8))
    np.save(root / "j.npy", np.zeros((4, 5, 5), np.uint8))
    data("index", root)
    assert [error.path for error in ImageFolder.search(root, channels=3).files.faults] == [str(root / "j.npy")]
    with pytest.raises(DataIndexError, match=r"made for model\.in_channels = 3, which is 5 now; .*bigrun data index P"):
        ImageFolder.search(root, channels=5)
    views = ("views.mean=[0,0,0,0,0]", "views.std=[1,1,1,1,1]", "views.colour_probability=0.0",
             "views.grayscale_probability=0.0", "model.in_channels=5")  # fmt: skip
    report = data_json("index", root, *(word for option in views for word in ("--set", option)))
    assert [fault["path"] for fault in report["faults"]] == ["i.npy"]
    files = ImageFolder.search(root, channels=5).files
    assert (files.path(len(files) - 1), files[len(files) - 1].shape) == ("j.npy", (5, 4, 5))


def test_a_file_that_comes_while_the_others_are_read_makes_the_index_stale(root: Path) -> None:
    with sources() as heard:
        files = ImageFolder.search(root).files
    save(root / "late.png", noise(4, 4))
    assert isinstance(files, ListedFiles)
    build_index(heard[0], files.table, index_place(heard[0]))
    with pytest.raises(DataIndexError, match="lists other files"):
        ImageFolder.search(root)


# -- where it lies ----------------------------------------------------------------------------------------------------


def test_a_read_only_folder_has_its_index_elsewhere(root: Path, tmp_path: Path) -> None:
    place = tmp_path / "the index.sqlite"
    with read_only(root):
        refused = data("index", root)
        assert refused.exit_code == ExitCode.USAGE
        assert "--out FILE" in refused.output
        assert "data.index = FILE" in refused.output
        assert f"--set data.index={place}" in data("index", root, "--out", place).output.replace("\n", "")
        assert isinstance(ImageFolder.search(root, index=place).files, IndexedFiles)
        again = data("index", root, "--set", f"data.index='{place}'")
    assert "9 as before" in again.output
    assert not list(root.glob("bigrun*"))
    with read_only(place.parent):  # an index on a disk that cannot be written is as good
        assert len(ImageFolder.search(root, index=place)) == 9


def test_a_disk_that_refuses_leaves_the_index_before(root: Path) -> None:
    data("index", root)
    before = (root / INDEX).read_bytes()
    for number in range(300):
        save(root / "more" / f"{number}.png", noise(4, 4))
    with file_size_limit(30_000):
        refused = data("index", root)
    assert refused.exit_code == ExitCode.USAGE
    assert "the index cannot be written" in refused.output
    assert (root / INDEX).read_bytes() == before
    assert not (root / f"{INDEX}.new").exists()
    assert data_json("index", root)["files"] == 309
    assert sorted(path.name for path in root.glob("bigrun*")) == [INDEX]


def test_one_process_at_a_time_writes_an_index(root: Path) -> None:
    with closing(sqlite3.connect(root / f"{INDEX}.partial", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        refused = data("index", root)
    assert refused.exit_code == ExitCode.USAGE
    assert "database is locked" in refused.output
    assert data("index", root).exit_code == 0


def test_an_index_that_is_named_must_exist(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataIndexError, match=r"data\.index: .*nowhere: no such file; `bigrun data index"):
        ImageFolder.search(root, index=tmp_path / "nowhere")


# -- kills ------------------------------------------------------------------------------------------------------------

CHILD = """
import sys
from bigrun.data.files import index
index.COMMIT_SECONDS = 0
from bigrun.cli import main
main(["data", "index", sys.argv[1], "--workers", "2"])
"""


def bytes_seen(root: Path) -> int:
    """What a process that is at work, or was killed, has written down."""
    partial = root / f"{INDEX}.partial"
    return partial.stat().st_size if partial.exists() else 0


def content_of(root: Path) -> str:
    """The hash of the content by its definition."""
    files = [(hashlib.sha256(path.read_bytes()).digest(), path.name) for path in root.glob("*.png")]
    return hashlib.sha256(b"".join(sha256 + name.encode() + b"\0" for sha256, name in sorted(files))).hexdigest()


@pytest.mark.slow
def test_after_a_kill_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for number in range(8):
        save(root / f"{number}.png", noise(64, 64, seed=number))
    data("index", root)
    before = (root / INDEX).read_bytes()
    for number in range(8, 1200):
        os.link(root / f"{number % 8}.png", root / f"{number}.png")
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(root)])
    while bytes_seen(root) < 30_000 and child.poll() is None:
        time.sleep(0.001)
    helpers = psutil.Process(child.pid).children(recursive=True)
    child.kill()
    child.wait()
    assert child.returncode == -signal.SIGKILL, "it was done before it could be killed"
    assert len(helpers) >= 2
    assert not psutil.wait_procs(helpers, timeout=20)[1], "processes that read have outlived the one that they read for"
    assert (root / INDEX).read_bytes() == before, "the index before is as it was"
    with closing(sqlite3.connect(root / f"{INDEX}.partial")) as partial:
        (done,) = partial.execute("SELECT count(*) FROM seen").fetchone()
    assert 8 < done < 1200
    report = data_json("index", root, "--workers", 0)
    assert report["content_sha256"] == content_of(root)
    assert report["changes"] == {"added": 1192, "changed": 0, "lost": 0, "kept": 8}
    assert sorted(path.name for path in root.glob("bigrun*")) == [INDEX]


def test_a_place_for_the_index_that_there_is_not_is_said(root: Path, tmp_path: Path) -> None:
    refused = data("index", root, "--out", tmp_path / "nowhere" / "index.sqlite")
    assert refused.exit_code == ExitCode.USAGE
    assert "there is no folder" in refused.output
    assert not (tmp_path / "nowhere").exists()
