"""Symbolic links in a run directory: which are refused, and that none is written through."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bigrun.directory import check_directory, replace_file
from bigrun.errors import RunDirectoryError
from bigrun.links import find_links_out, open_append, read_bytes, refuse_links


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "checkpoints" / "step-00000001").mkdir(parents=True)
    (run / "config.toml").write_text("")
    (run / "checkpoints" / "step-00000001" / "state.json").write_text("{}")
    return run


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    path = tmp_path / "precious"
    path.write_text("precious")
    return path


def test_a_directory_without_links_is_accepted(run: Path) -> None:
    check_directory(run)
    assert list(find_links_out(run)) == []


def test_a_run_directory_may_itself_be_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "there").symlink_to(run)
    check_directory(tmp_path / "there")


@pytest.mark.parametrize("target", ["checkpoints/step-00000001", "nowhere", "../run/config.toml"])
def test_a_link_that_stays_inside_is_left_alone(run: Path, target: str) -> None:
    (run / "latest").symlink_to(target)
    check_directory(run)


@pytest.mark.parametrize(
    "name", ["config.toml", "metrics.jsonl", "a", "checkpoints/x", "checkpoints/step-00000001/state.json"]
)
@pytest.mark.parametrize(
    "target", ["../precious", "../../precious", "/etc/hostname", "..", "/nowhere/at/all", "../runaway"]
)
def test_a_link_out_is_refused_by_name(run: Path, precious: Path, name: str, target: str) -> None:
    """`../runaway` begins with the directory's name, and is another."""
    path = run / name
    path.unlink(missing_ok=True)
    path.symlink_to(target if target.startswith("/") else Path(*[".."] * name.count("/"), target))
    with pytest.raises(RunDirectoryError) as caught:
        check_directory(run)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2
    assert path.is_symlink()


def test_a_link_to_a_link_out_is_refused(run: Path, precious: Path) -> None:
    (run / "checkpoints" / "second").symlink_to(precious)
    (run / "first").symlink_to("checkpoints/second")
    assert sorted(link.name for link, _ in find_links_out(run)) == ["first", "second"]


def test_a_folder_that_is_linked_twice_or_to_itself_ends(run: Path) -> None:
    (run / "self").symlink_to("self")
    (run / "up").symlink_to(".")
    assert list(find_links_out(run)) == []


def test_many_links_are_named_in_few_lines(run: Path) -> None:
    for number in range(40):
        (run / f"link-{number:02d}").symlink_to("/tmp")
    with pytest.raises(RunDirectoryError, match=r"link-04 -> /tmp\n  and 35 more"):
        refuse_links(run)


@pytest.mark.parametrize("write", [lambda path: open_append(path).close(), read_bytes])
def test_a_link_made_after_the_check_is_not_followed(
    run: Path, precious: Path, write: Callable[[Path], object]
) -> None:
    (run / "metrics.jsonl").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        write(run / "metrics.jsonl")
    assert precious.read_text() == "precious"


def test_a_file_is_replaced_and_not_what_it_leads_to(run: Path, precious: Path) -> None:
    for name in ("config.toml", ".config.toml.new"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(precious)
    replace_file(run / "config.toml", b"new")
    assert precious.read_text() == "precious"
    assert not (run / "config.toml").is_symlink()
    assert (run / "config.toml").read_bytes() == b"new"
    assert not (run / ".config.toml.new").exists()


def test_lines_are_added_and_read(run: Path) -> None:
    for line in ("a\n", "b\n"):
        with open_append(run / "x.jsonl") as file:
            file.write(line)
    assert read_bytes(run / "x.jsonl") == b"a\nb\n"
    os.mkfifo(run / "pipe")
    assert read_bytes(run / "pipe") == b""
