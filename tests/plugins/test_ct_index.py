"""index.csv and what is made of it: rows, series, neighbours."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ct import Scan, two_data_sets, write_ct
from hypothesis import given, settings
from hypothesis import strategies as st

from bigrun.data.files import Entry, open_files
from bigrun.errors import NoImagesError, UsageError
from bigrun_ct.index import fingerprint, read_index
from bigrun_ct.series import Series, find_series

HEADER = "png_path,series_dir,slice_index"


def table(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "index.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def series_of(entries: list[Entry], tmp_path: Path) -> Series:
    return find_series(open_files(tmp_path, lambda: entries), "source")


def entries_of(rows: list[tuple[str, int, float | None]]) -> list[Entry]:
    return [
        Entry(f"{series}/{index}-{k}.png", {"series": series, "slice_index": index, "spacing_z": z})
        for k, (series, index, z) in enumerate(rows)
    ]


def test_the_format_of_the_predecessor_is_read(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        HEADER + ",spacing,spacing_x,spacing_y,spacing_z",
        "lung2/000.png,lung2,0,0.626953 0.626953 5,0.626953,0.626953,5",
        '"with, comma/1.png",s,1,,,,',
    )
    first, second = read_index(path)
    spacing = {"spacing_x": 0.626953, "spacing_y": 0.626953, "spacing_z": 5.0}
    assert first == Entry("lung2/000.png", {"series": "lung2", "slice_index": 0, **spacing})
    assert second == Entry("with, comma/1.png", {"series": "s", "slice_index": 1, **dict.fromkeys(spacing)})


def test_other_columns_spaces_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "index.csv"
    path.write_text("\ufeffslice_index, png_path ,series_dir,patient,label\n\n 3 , a.png,s, p ,x\n4,b.png,s,,y\n")
    first, second = read_index(path)
    assert first == Entry("a.png", {"series": "s", "slice_index": 3, "patient": "p"})
    assert second.columns["patient"] is None


@pytest.mark.parametrize("text", ["0.5 0.6 2", "[0.5, 0.6, 2.0]", "(0.5;0.6;2)"])
def test_spacing_in_one_column(tmp_path: Path, text: str) -> None:
    (entry,) = read_index(table(tmp_path, HEADER + ",spacing", f'a.png,s,0,"{text}"'))
    assert [entry.columns[f"spacing_{axis}"] for axis in "xyz"] == [0.5, 0.6, 2.0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,s", "expected 6 values as in the first line, got 2"),
        (",s,0,,,", "png_path is empty"),
        ("a.png,,0,,,", "series_dir is empty"),
        ("a.png,s,first,,,", "slice_index: expected a number, got 'first'"),
        ("a.png,s,1.5,,,", "slice_index: expected a whole number, got '1.5'"),
        ("a.png,s,nan,,,", "slice_index: expected a finite number, got 'nan'"),
        ("a.png,s,0,1,1,0", "spacing_z: expected more than 0 mm, got '0'"),
        ("a.png,s,0,1,x,1", "spacing_y: expected a number, got 'x'"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, row: str, message: str) -> None:
    header = HEADER + ",spacing_x,spacing_y,spacing_z"
    with pytest.raises(UsageError) as caught:
        list(read_index(table(tmp_path, header, "a.png,s,0,,,", row)))
    assert f"line 3: {message}" in str(caught.value)
    assert "1 bad rows" in str(caught.value)


def test_of_many_bad_rows_the_first_ten_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 10 bad rows") as caught:
        list(read_index(table(tmp_path, HEADER, *["a.png,s,x"] * 500)))
    assert str(caught.value).count("\n  line") == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty; expected a table"),
        (b"png_path;series_dir;slice_index\n", "its columns are separated by semicolons; expected commas"),
        (b"png_path\tseries_dir\tslice_index\n", "its columns are separated by tabs; expected commas"),
        (b"path\n", "no column png_path, series_dir, slice_index"),
        (b"png_path,series_dir\n", "no column slice_index"),
        (b"png_path,png_path,series_dir,slice_index\n", "png_path is there twice"),
        (b"png_path,series_dir,slice_index\n\xff\xfe,s,0\n", "not a table of comma-separated values in UTF-8"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "index.csv").write_bytes(text)
    with pytest.raises(UsageError, match=message):
        list(read_index(tmp_path / "index.csv"))
    with pytest.raises(NoImagesError, match="no such file"):
        list(read_index(tmp_path / "other.csv"))


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a/../../b.png"])
def test_a_path_out_of_the_folder_is_no_slice(tmp_path: Path, path: str) -> None:
    good, bad = read_index(table(tmp_path, HEADER, "a.png,s,0", f"{path},s,1"))
    assert good.fault is None
    assert bad.fault is not None
    files = open_files(tmp_path, lambda: [good, bad])
    assert len(files) == 1
    assert [fault.cause for fault in files.faults] == ["outside"]


def test_the_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    one = fingerprint(table(tmp_path, HEADER, "a.png,s,0"))
    assert one == fingerprint(table(tmp_path, HEADER, "a.png,s,0"))
    assert one != fingerprint(table(tmp_path, HEADER, "a.png,s,1"))


# -- neighbours -----------------------------------------------------------------------------------------------


def test_neighbours_of_the_small_ct(tmp_path: Path) -> None:
    root = two_data_sets(tmp_path)
    files = open_files(root, lambda: read_index(root / "index.csv"))
    series = find_series(files, "source")
    names = [files.path(k) for k in range(len(files))]

    def near(path: str, distance: int = 1) -> list[str]:
        return [Path(names[k]).stem for k in series.reach(names.index(path), distance)]

    assert series.datasets == ("tenth", "whole")
    assert series.number.max() == 3
    assert series.gaps == 1
    assert near("a/one/002.png") == ["001", "002", "003"]
    assert near("a/one/000.png") == ["000", "000", "001"]
    assert near("a/one/005.png") == ["004", "005", "005"]
    assert near("a/two/003.png") == ["002", "003", "003"]  # 4 and 5 are missing
    assert near("a/two/006.png") == ["006", "006", "007"]
    assert near("a/one/001.png", 2) == ["000", "000", "001", "002", "003"]
    assert near("b/four/005.png") == ["005", "005", "005"]


def test_series_of_the_same_name_in_two_data_sets_are_two(tmp_path: Path) -> None:
    entries = [Entry(f"{d}{k}.png", {"series": "s", "slice_index": k, "dataset": d}) for d in "ab" for k in range(2)]
    series = series_of(entries, tmp_path)
    assert series.number.max() == 1
    assert series.reach(1, 1) == [0, 1, 1]


def test_a_series_may_have_any_step_of_its_own(tmp_path: Path) -> None:
    series = series_of(entries_of([("s", index, None) for index in (0, 5, 10, 15, 25)]), tmp_path)
    assert [series.reach(k, 1) for k in (1, 3, 4)] == [[0, 1, 2], [2, 3, 3], [4, 4, 4]]
    assert series.gaps == 1


def test_long_names_of_series_cost_no_memory(tmp_path: Path) -> None:
    """One copy of each name: as an array of 16,000 texts of 2,000 characters they would be 128 MB."""
    names = [f"{k:02000d}" for k in range(20)]
    entries = [Entry(f"{k}.png", {"series": names[k % 20], "slice_index": k // 20}) for k in range(16_000)]
    files = open_files(tmp_path, lambda: entries)
    tracemalloc.start()
    try:
        series = find_series(files, "source")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert series.number[:41].tolist() == [*range(20), *range(20), 0]
    assert peak < 20e6


def test_another_distance_of_slices_is_a_gap(tmp_path: Path) -> None:
    rows = [("s", k, 5.0 if k < 4 else 1.0) for k in range(6)] + [("t", 0, 2.0), ("t", 1, 2.001), ("t", 2, None)]
    series = series_of(entries_of(rows), tmp_path)
    assert series.reach(3, 1) == [2, 3, 3]
    assert series.reach(7, 1) == [6, 7, 8]  # rounded, or not known
    assert series.gaps == 2  # at slice 4, and between two slices that are both unlike their series


def test_a_slice_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"s/1-0\.png and s/1-2\.png are the same slice of a series \(1 of s\)"):
        series_of(entries_of([("s", 1, None), ("s", 2, None), ("s", 1, None)]), tmp_path)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no column 'series'"):
        series_of([Entry("a.png")], tmp_path)


slices = st.dictionaries(
    st.tuples(st.sampled_from("abc"), st.integers(0, 30)), st.sampled_from([None, 1.0]), min_size=1, max_size=40
)


@settings(deadline=None, max_examples=30)
@given(slices=slices, seed=st.integers(0, 100), distance=st.integers(0, 3))
def test_laws_of_neighbours(slices: dict[Any, Any], seed: int, distance: int) -> None:
    """In whatever order the rows are."""
    rows = [(name, index, z) for (name, index), z in slices.items()]
    rows = [rows[k] for k in np.random.default_rng(seed).permutation(len(rows))]
    series = series_of(entries_of(rows), Path())
    steps = {name: own_step([i for n, i, _ in rows if n == name]) for name, _, _ in rows}
    for file, (name, index, _) in enumerate(rows):
        reached = series.reach(file, distance)
        assert len(reached) == 2 * distance + 1
        assert reached[distance] == file
        expected, later = index, sorted(i for n, i, _ in rows if n == name and i > index)
        for number in reached[distance + 1 :]:
            if later and later[0] == expected + steps[name]:
                expected = later.pop(0)
            assert rows[number][:2] == (name, expected)
        for up, down in ((series.above, series.below), (series.below, series.above)):
            assert up[file] == file or down[up[file]] == file
    pairs = sum(len([i for n, i, _ in rows if n == name]) - 1 for name in steps)
    assert series.gaps == pairs - int((series.above != np.arange(len(rows))).sum())
    by_series = [rows[k][:2] for k in series.order]
    assert by_series == sorted(by_series)
    assert series.ranks().tolist() == [sum(row[0] == n for row in by_series[:k]) for k, (n, _) in enumerate(by_series)]


def own_step(indices: list[int]) -> int:
    """The lower median of the steps; 0 for a single slice."""
    steps = sorted(np.diff(sorted(indices)).tolist())
    return steps[(len(steps) - 1) // 2] if steps else 0


def test_the_helper_writes_what_it_says(tmp_path: Path) -> None:
    root = write_ct(tmp_path, [Scan("s", range(3))])
    assert [entry.columns["slice_index"] for entry in read_index(root / "index.csv")] == [0, 1, 2]
