"""Commands that installed packages add to `bigrun`: what the help says of them; a broken one harms no other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bigrun.cli import main
from bigrun.unimported import definition

SOURCE = '''
"""A package that says when it is imported."""
from pathlib import Path
import click
Path(__file__).with_name("imported").touch()

@click.command()
def good():
    """Do \x1b[31msomething good. And more.

    Much more.
    """
    click.echo("done")

@click.command()
def silent():
    click.echo("done")

made = click.Command("made", help="Made in another way.")

def no_command():
    """Is no command."""

@click.group()
def several():
    """Has commands of its own."""
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a distribution `stranger` with such entry points is installed."""
    package, facts = tmp_path / "stranger", tmp_path / "stranger-1.0.dist-info"
    package.mkdir()
    facts.mkdir()
    (package / "__init__.py").touch()
    (package / "commands.py").write_text(SOURCE, encoding="utf-8")
    (package / "broken.py").write_text("import there_is_no_such_module\n", encoding="utf-8")
    (package / "no_python.py").write_text("def (:\n", encoding="utf-8")
    (package / "no_text.py").write_bytes(b"\xff\xfe\x00")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n", encoding="utf-8")
    points = {
        "good": "commands:good", "silent": "commands:silent", "made": "commands:made", "several": "commands:several",
        "no-command": "commands:no_command", "broken": "broken:command", "no-python": "no_python:command",
        "no-text": "no_text:command", "not-there": "gone:command", "presets": "commands:good",
    }  # fmt: skip
    lines = [f"{name} = stranger.{target}" for name, target in points.items()]
    lines += ["no-package = there_is_no_such_package.cli:command", "no-target = stranger.commands"]
    (facts / "entry_points.txt").write_text("\n".join(["[bigrun.commands]", *lines]), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "stranger"]:
        del sys.modules[name]


def bigrun(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"COLUMNS": "100"}, terminal_width=100)


def test_the_help_shows_the_first_sentence_of_a_command_and_imports_nothing(installed: Path) -> None:
    result = bigrun("--help")
    assert result.exit_code == 0, result.output
    rows = dict(line.split(None, 1) for line in result.output.partition("Commands:")[2].splitlines() if line.strip())
    assert rows["good"] == "Do \\x1b[31msomething good."
    assert rows["several"] == "Has commands of its own."
    fallback = {"silent", "made", "broken", "no-python", "no-text", "not-there", "no-package", "no-target"}
    assert {name for name, text in rows.items() if text == "A command of stranger."} == fallback
    assert not (installed / "imported").exists()
    assert "stranger" not in sys.modules


def test_an_added_command_runs(installed: Path) -> None:
    assert (bigrun("good").exit_code, bigrun("good").output) == (0, "done\n")
    assert (installed / "imported").exists()


@pytest.mark.parametrize("name", ["broken", "no-python", "no-text", "not-there", "no-package", "no-target"])
def test_a_command_that_cannot_be_imported_is_one_message_and_no_other_suffers(installed: Path, name: str) -> None:
    result = bigrun(name)
    assert result.exit_code == 2
    assert f"bigrun {name}: its command, " in result.output
    assert "of stranger, " in result.output
    assert "Traceback" not in result.output
    assert bigrun("good").exit_code == 0


def test_what_is_no_command_is_refused(installed: Path) -> None:
    result = bigrun("no-command")
    assert result.exit_code == 2
    assert "is a function, expected a click.Command" in result.output


def add_rival(package: Path, target: str) -> None:
    facts = package.parent / "rival-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 1.0\n", encoding="utf-8")
    (facts / "entry_points.txt").write_text(f"[bigrun.commands]\ngood = {target}\n", encoding="utf-8")


def test_two_packages_with_one_name_are_both_named_and_neither_runs(installed: Path) -> None:
    add_rival(installed, "stranger.commands:silent")
    result = bigrun("good")
    assert result.exit_code == 2
    owners = "rival (stranger.commands:silent) and stranger (stranger.commands:good)"
    assert f"bigrun good: it is a command of {owners}: uninstall all but one" in result.output
    assert not (installed / "imported").exists()
    text = " ".join(bigrun("--help").output.split())
    assert f"good Cannot be used: it is a command of {owners}" in text
    assert "several Has commands of its own." in text


def test_two_packages_with_the_same_command_are_of_one_mind(installed: Path) -> None:
    add_rival(installed, "stranger.commands:good")
    assert (bigrun("good").exit_code, bigrun("good").output) == (0, "done\n")


def test_a_command_of_the_engine_is_not_hidden(installed: Path) -> None:
    assert "done" not in bigrun("presets").output
    assert bigrun("--help").output.count("\n  presets ") == 1
    assert "List the shipped presets" in bigrun("--help").output


def test_an_unknown_command_is_a_usage_error(installed: Path) -> None:
    result = bigrun("goood")
    assert result.exit_code == 2
    assert "No such command 'goood'" in result.output


@pytest.mark.parametrize("target", ["", ":", "a.b:c", "..x:y", "bigrun", "bigrun:main", "bigrun.cli", "sys:exit"])
def test_a_target_that_is_nowhere_has_no_definition(target: str) -> None:
    assert definition(target) is None


def test_the_help_of_bigrun_loads_no_plugin_and_nothing_heavy() -> None:
    code = "import sys; from bigrun.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    help_text, _, modules = done.stdout.partition("\nsys\n")
    assert "Show a running or finished run on the terminal" in " ".join(help_text.split())
    loaded = {name.partition(".")[0] for name in modules.splitlines()}
    assert not loaded & {"torch", "rich", "numpy", "PIL"}
    assert [name for name in loaded if name.startswith("bigrun_")] == []
