"""Whole lines on a disk that refuses for a while."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from disks import file_size_limit
from hypothesis import given, settings
from hypothesis import strategies as st

from bigrun_metrics_log import lines as module
from bigrun_metrics_log.lines import Lines


def test_lines_are_in_the_file_at_once(tmp_path: Path) -> None:
    file = Lines(tmp_path / "log")
    assert not file.write("one")
    assert not file.write("two", "three")
    assert file.path.read_text() == "one\ntwo\nthree\n"
    assert (file.trouble, file.waiting) == (None, 0)


def test_writing_nothing_makes_the_file(tmp_path: Path) -> None:
    Lines(tmp_path / "log").write()
    assert (tmp_path / "log").read_bytes() == b""


@pytest.mark.parametrize("limit", [0, 1, 7, 10, 12])
def test_what_the_disk_refuses_waits_and_no_part_of_it_stands_there(tmp_path: Path, limit: int) -> None:
    file = Lines(tmp_path / "log")
    with file_size_limit(limit):
        changes = [file.write(f"line {number}") for number in range(4)]
        fit = limit // 7
        assert file.path.read_text() == "".join(f"line {number}\n" for number in range(fit))
        assert changes == [number == fit for number in range(4)], "said once, when it began"
        assert file.waiting == 4 - fit
        assert file.trouble is not None
        assert file.trouble.strerror == "File too large"
    assert file.write("last"), "and when it was over"
    assert file.path.read_text() == "".join(f"line {number}\n" for number in range(4)) + "last\n"
    assert (file.trouble, file.waiting, file.lost) == (None, 0, 0)


@pytest.mark.parametrize("limit", [7, 10])
def test_what_the_disk_refuses_makes_the_file_no_newer(tmp_path: Path, limit: int) -> None:
    file = Lines(tmp_path / "log")
    file.write("line 0")
    os.utime(file.path, (1000, 1000))
    with file_size_limit(limit):
        file.write("line 1")
    assert file.path.stat().st_mtime == 1000
    file.write()
    assert file.path.stat().st_mtime > 1000


def test_half_a_line_of_a_killed_process_goes_before_another_follows(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"whole": 1}\n{"half')
    Lines(path).write("next")
    assert path.read_text() == '{"whole": 1}\nnext\n'
    path.write_text("only half")
    Lines(path).write("next")
    assert path.read_text() == "next\n"


def test_a_write_that_was_cut_short_by_force_is_mended_by_the_next(tmp_path: Path) -> None:
    """As when the disk refuses even to cut the file."""
    file = Lines(tmp_path / "log")
    file.write("one")
    with file_size_limit(6):
        file.write("two")
    with file.path.open("a") as other:
        other.write("tw")
    file.write("three")
    assert file.path.read_text() == "one\ntwo\nthree\n"


def test_too_many_lines_lose_the_oldest_and_it_is_counted(tmp_path: Path) -> None:
    file = Lines(tmp_path / "log")
    with file_size_limit(0):
        file.write(*(str(number) for number in range(module.KEPT + 3)))
    assert (file.waiting, file.lost) == (module.KEPT, 3)
    file.write()
    written = file.path.read_text().split()
    assert written == [str(number) for number in range(3, module.KEPT + 3)]


def test_what_is_not_the_disks_is_raised(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        Lines(tmp_path / "folder").write("one")
    with pytest.raises(FileNotFoundError):
        Lines(tmp_path / "nowhere" / "log").write("one")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Lines(tmp_path / "link").write("one")
    assert not (tmp_path / "elsewhere").exists()


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=20), st.booleans())))
@settings(deadline=None, max_examples=30)
def test_however_the_disk_behaves_all_lines_arrive_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bool]]
) -> None:
    file = Lines(tmp_path_factory.mktemp("lines") / "log")
    for text, is_full in steps:
        with file_size_limit(20) if is_full else contextlib.nullcontext():
            file.write(text)
        written = file.path.read_bytes()
        assert written == b"" or written.endswith(b"\n")
    file.write()
    assert file.path.read_bytes().decode() == "".join(f"{text}\n" for text, _ in steps)
