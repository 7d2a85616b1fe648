"""`bigrun data`: its commands, those of other packages among them, and what PRESET|DIR means."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from data_sets import data, data_json, mixed_folder, noise, save

from bigrun.data.files.schema import INDEX
from bigrun.data.source import read_source
from bigrun.errors import ExitCode

MODULE = """
import click
@click.command()
@click.argument("word")
def shout(word):
    "Say it loud."
    click.echo(word.upper())
number = 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution that adds commands, good ones and bad ones."""
    place = tmp_path / "site"
    info = place / "loud-1.0.dist-info"
    info.mkdir(parents=True)
    (place / "loud_commands.py").write_text(MODULE)
    (place / "loud_broken.py").write_text("raise RuntimeError('no scanner found')")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[bigrun.data]\n"
        "shout = loud_commands:shout\n"
        "broken = loud_broken:command\n"
        "gone = loud_commands:gone\n"
        "number = loud_commands:number\n"
        "index = loud_commands:shout\n"
    )
    monkeypatch.syspath_prepend(str(place))


@pytest.mark.usefixtures("package")
def test_commands_of_packages_are_listed_and_imported_when_they_are_called() -> None:
    listed = data("--help")
    assert listed.exit_code == 0
    lines = {words[0]: line for line in listed.output.splitlines() if (words := line.split())}
    assert "Say it loud." in lines["shout"], "read from its source"
    assert "A command of loud." in lines["broken"]
    assert {"loud_commands", "loud_broken"}.isdisjoint(sys.modules)
    assert "Read every file" in lines["index"], "an own command is not taken over"
    assert data("shout", "hello").output == "HELLO\n"
    assert "Say it loud." in data("shout", "--help").output
    assert "loud_broken" not in sys.modules


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "loud_broken:command of loud, cannot be imported: RuntimeError: no scanner found"),
        ("gone", "loud_commands:gone of loud, cannot be imported: AttributeError"),
        ("number", "loud_commands:number of loud, is a int, expected a click.Command"),
    ],
)
def test_a_command_that_cannot_be_imported_is_one_message(name: str, said: str) -> None:
    result = data(name, "x")
    assert result.exit_code == ExitCode.USAGE
    assert said in result.output.replace("\n", " ")


def test_an_unknown_command_is_refused() -> None:
    assert data("indx").exit_code == 2


def test_help_loads_neither_torch_nor_numpy_nor_a_package(tmp_path: Path) -> None:
    for words in (["--help"], ["data", "--help"], ["data", "index", "--help"], ["data", "pack", "--help"]):
        command = [sys.executable, "-X", "importtime", "-m", "bigrun", *words]
        done = subprocess.run(command, capture_output=True, check=True, text=True, cwd=tmp_path)
        found = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
        assert "click" in found
        assert not {"torch", "numpy", "rich", "sqlite3", "PIL"} & found


def test_a_folder_is_itself_and_anything_else_a_preset(tmp_path: Path) -> None:
    root = mixed_folder(tmp_path / "vit_small")
    document = read_source(str(root), sets=["model.depth=2"])
    assert document.tables["data"]["path"] == str(root)
    assert document.tables["model"]["depth"] == 2
    assert read_source("vit_small").tables["model"]
    preset = tmp_path / "mine.toml"
    preset.write_text(f"[data]\npath = '{root}'\n")
    assert data_json("index", preset)["files"] == 9
    assert (root / INDEX).is_file()


def test_what_is_no_data_set_of_files_says_so(tmp_path: Path) -> None:
    nowhere = data("index", str(tmp_path / "nowhere"))
    assert nowhere.exit_code == ExitCode.USAGE
    assert "no such folder, and no preset of that name; expected a folder of images, or a preset" in nowhere.output
    typed = data("index", "quickstrat")
    assert typed.exit_code == ExitCode.USAGE
    assert "quickstrat: no such folder, and no preset of that name - did you mean 'quickstart'?" in typed.output
    (tmp_path / "empty").mkdir()
    empty = data("index", tmp_path / "empty")
    assert empty.exit_code == ExitCode.USAGE
    assert "no images among 0 files" in empty.output
    tiles = data("index", "quickstart")
    assert tiles.exit_code == ExitCode.USAGE
    assert "PhotoTiles, is not made of files" in tiles.output


def test_the_report_names_a_few_and_counts_the_rest(tmp_path: Path) -> None:
    for number in range(5):
        save(tmp_path / "images" / f"{number}.png", noise(9, 9, seed=number))
        save(tmp_path / "images" / f"{number}-again.png", noise(9, 9, seed=number))
        (tmp_path / "images" / f"{number}-empty.png").touch()
    output = data("index", tmp_path / "images").output
    assert "files        10, " in output
    assert "faults       left out: 5 empty" in output
    assert "duplicates   5 in 5 groups" in output
    assert "0-again.png = 0.png" in output
    assert output.count("and 2 more; --json lists all") == 2


def test_a_hostile_name_does_not_reach_the_terminal(tmp_path: Path) -> None:
    save(tmp_path / "images" / "good.png", noise(9, 9))
    (tmp_path / "images" / "\x1b[2Jx.png").touch()
    output = data("index", tmp_path / "images").output
    assert "\x1b" not in output
    assert r"\x1b[2Jx.png" in output
