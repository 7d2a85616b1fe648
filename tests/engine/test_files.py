"""Files of a data set as their source lists them: paths, columns, what leaves the root."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bigrun.data.faults import BadImageError
from bigrun.data.files import Entry, Files, open_files
from bigrun.data.files.strings import Strings
from bigrun.data.files.table import FileTable
from bigrun.errors import DataError

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def picture(path: Path, value: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((3, 4), value, np.uint16)).save(path)
    return path


@given(st.lists(NAMES))
def test_strings_are_the_list_that_they_are_made_of(texts: list[str]) -> None:
    strings = pickle.loads(pickle.dumps(Strings.of(texts)))
    assert list(strings) == texts
    assert [strings[number] for number in range(-len(texts), len(texts))] == texts + texts
    with pytest.raises(IndexError):
        strings[len(texts)]


def test_names_that_are_no_utf8_stay_what_they_are() -> None:
    name = os.fsdecode(b"caf\xe9.png")
    assert Strings.of([name])[0] == name


def test_many_files_take_little_memory_and_pickle_as_buffers() -> None:
    entries = (Entry(f"patient-{n % 999:04d}/{n:07d}.png", {"patient": f"{n % 999}", "z": n}) for n in range(20_000))
    tracemalloc.start()
    table = FileTable.of(entries)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 20_000 * 70  # 24 for the path, 8 for where it ends, 12 for the columns, some to grow
    assert len(pickle.dumps(table, protocol=5)) < 20_000 * 50


def test_columns_have_the_type_of_their_values(tmp_path: Path) -> None:
    rows = [
        {"patient": "a", "slice_index": 3, "spacing": 1},
        {"patient": None, "slice_index": 4, "spacing": 0.5, "late": "x"},
        {"patient": "a", "slice_index": -1, "spacing": None, "late": None, "never": None},
    ]
    files = open_files(tmp_path, lambda: (Entry(f"{n}.png", row) for n, row in enumerate(rows)))
    files = pickle.loads(pickle.dumps(files))
    assert files.columns == ("patient", "slice_index", "spacing", "late", "never")
    assert files.column("patient").tolist() == ["a", None, "a"]
    assert files.column("slice_index").dtype == np.int64
    assert files.column("slice_index").tolist() == [3, 4, -1]
    assert np.array_equal(files.column("spacing"), [1.0, 0.5, np.nan], equal_nan=True)
    assert files.column("late").tolist() == [None, "x", None]
    assert files.column("never").tolist() == [None, None, None]
    with pytest.raises(KeyError):
        files.column("study")
    assert files.hashes() is None
    assert files.content_hash is None


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ((1, "two"), r"b: column 'x' is 'two', expected a number as in the files before it"),
        (("one", 2.0), r"b: column 'x' is 2\.0, expected text"),
        ((1, 2**63), r"column 'x': 9223372036854775808 has more than 64 bits"),
    ],
)
def test_a_column_of_several_types_is_refused(tmp_path: Path, values: tuple[object, object], problem: str) -> None:
    entries = [Entry(name, {"x": value}) for name, value in zip("ab", values, strict=True)]  # type: ignore[dict-item]
    with pytest.raises(DataError, match=problem):
        open_files(tmp_path, lambda: entries)


def refusal(files: Files, number: int = 0) -> BadImageError:
    with pytest.raises(BadImageError) as caught:
        files[number]
    return pickle.loads(pickle.dumps(caught.value))


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.png", "a/../../secret.png", "..", "a/.."])
def test_a_path_that_leaves_the_root_is_refused_and_the_others_are_read(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    picture(root / "a" / "good.png")
    picture(tmp_path / "secret.png")
    files = open_files(root, lambda: [Entry(path), Entry("a/good.png"), Entry("a/./../a/good.png")])
    error = refusal(files)
    assert error.cause == ("not-a-file" if path == "a/.." else "outside")
    assert error.path.endswith(path.lstrip("/"))
    assert files[1].shape == files[2].shape == (1, 3, 4)


def test_a_link_out_of_the_root_is_followed_only_if_that_is_asked_for(tmp_path: Path) -> None:
    root = tmp_path / "root"
    picture(tmp_path / "elsewhere" / "i.png")
    picture(root / "real.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "inside.png").symlink_to(root / "real.png")
    (tmp_path / "same").symlink_to(root)

    def entries() -> Iterator[Entry]:
        yield from (Entry("linked/i.png"), Entry("inside.png"))

    for place in (root, tmp_path / "same"):  # a root that is a link is no way out
        files = open_files(place, entries)
        assert refusal(files).cause == "outside"
        assert "symbolic link" in str(refusal(files))
        assert files[1].shape == (1, 3, 4)
    assert open_files(root, entries, follow_links=True)[0].shape == (1, 3, 4)


def test_a_name_that_no_file_can_have_is_missing(tmp_path: Path) -> None:
    assert refusal(open_files(tmp_path, lambda: [Entry("a\0b.png")])).cause == "missing"


def test_what_the_source_knows_to_be_bad_has_no_number(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    bad = BadImageError("page.jpg", "not-an-image", "HTML")
    files = open_files(tmp_path, lambda: [Entry("page.jpg", fault=bad), Entry("good.png")])
    assert len(files) == 1
    assert files.path(0) == "good.png"
    assert files.faults == (bad,)
