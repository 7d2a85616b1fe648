"""The reference says what the code does: generated pages are current, lists in written pages are complete."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from fenced import ROOT

from bigrun import errors, logs
from bigrun.entry_points import installed
from bigrun.explain import options_of
from bigrun.hookspecs import Hooks
from bigrun.rules import EngineConfig
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult

REFERENCE = ROOT / "docs" / "reference"
SOURCES = sorted([*(ROOT / "engine/bigrun").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")])


def load_generator() -> Any:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_generator()
HOOKS = generate.hook_specs()


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def code_words(text: str) -> set[str]:
    """Everything that stands between backticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


# -- generated pages ------------------------------------------------------------------------------------------


def test_generated_pages_are_current() -> None:
    names = [str(path.relative_to(ROOT)) for path in generate.stale()]
    assert not names, f"{', '.join(names)}: not what the code says; refresh with: python docs/generate.py"


def test_every_hook_is_found() -> None:
    written = re.findall(r"^    def ([a-z]\w*)\(\s*self", read(ROOT / "engine/bigrun/hookspecs.py"), re.MULTILINE)
    assert list(HOOKS) == written


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_has_a_heading_with_its_signature(name: str) -> None:
    signature = inspect.signature(HOOKS[name])
    annotations = {p.name: p.annotation for p in signature.parameters.values() if p.name != "self"}
    expected = f"{name}({', '.join(f'{k}: {v}' for k, v in annotations.items())}) -> {signature.return_annotation}"
    assert f"\n## `{expected}`\n" in read(REFERENCE / "hooks.md")
    source = " ".join(inspect.getsource(getattr(Hooks, name)).split())  # and that is how it is written there
    assert expected.replace(f"{name}(", f"def {name}(self, ") in source.replace("( self", "(self").replace(
        " ) ->", ") ->"
    )


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_says_when_how_often_what_and_what_if(name: str) -> None:
    promises = generate.promises_of(HOOKS[name])
    assert list(promises) == ["When", "Called", "Processes", "Result", "If it raises"]
    assert all(promises.values())
    assert generate.summary_of(HOOKS[name])


SECTIONS = {
    **typing.get_type_hints(EngineConfig),
    **{f"plugins.{name}": cls.Config for name, cls in generate.built_in().items() if hasattr(cls, "Config")},
}


@pytest.mark.parametrize("path", SECTIONS)
def test_every_option_has_help_and_a_row(path: str) -> None:
    page = read(REFERENCE / "options.md")
    section = page.partition(f"\n## `[{path}]`\n")[2].partition("\n## ")[0]
    for field, _ in options_of(SECTIONS[path]):
        text = field.metadata.get("help", "")
        assert text.strip(), f"{path}.{field.name} has no help"
        assert text.endswith("."), f"{path}.{field.name}: the help is not a sentence"
        assert f"\n| `{field.name}` |" in section


def test_an_option_of_a_command_without_help_is_refused() -> None:
    """Or the page says `None` of it, and `--help` nothing."""
    assert generate.option_row("try", click.Option(["--fast"], is_flag=True, help="In less time."))
    for text in (None, " "):
        with pytest.raises(ValueError, match="bigrun try --slow: has no help"):
            generate.option_row("try", click.Option(["--slow"], help=text))
    assert "| None" not in read(REFERENCE / "cli.md")


# -- written pages --------------------------------------------------------------------------------------------


def test_exit_codes_and_errors_are_complete() -> None:
    page = read(REFERENCE / "exit-codes-and-errors.md")
    for code in errors.ExitCode:
        assert f"\n| {int(code)} | `{code.name}` |" in page
    for name in errors.__all__:
        cls = getattr(errors, name)
        if issubclass(cls, errors.BigrunError):
            assert f"\n| `{name}` | {int(cls.exit_code)} |" in page


def test_the_end_of_every_command_is_told() -> None:
    section = read(REFERENCE / "exit-codes-and-errors.md").partition("\n### Other commands\n")[2].partition("\n## ")[0]
    told = {word for row in re.findall(r"^\| (`bigrun .*?) \|", section, re.MULTILINE) for word in code_words(row)}
    groups = {"checkpoints", "data"}
    names = {name for name, _ in generate.commands_of(generate.command_line)} - groups - {"run"} | {"run --dry-run"}
    assert told == {f"bigrun {name}" for name in names}


def test_built_in_plugins_are_described_with_their_kind() -> None:
    plugins = [plugin for plugin in installed().values() if plugin.distribution == "bigrun"]
    for plugin in plugins:
        assert f"\n## `{plugin.name}` ({plugin.declared_kind()})\n" in read(REFERENCE / "plugins.md")
        assert f"\n| `{plugin.name}` | {plugin.declared_kind()} |" in read(ROOT / "README.md")
        assert f"`{plugin.name}`" in read(ROOT / "CHANGELOG.md")


def test_commands_are_in_the_readme() -> None:
    for name in generate.command_line.commands:
        assert re.search(rf"^\| `bigrun {name}[ `]", read(ROOT / "README.md"), re.MULTILINE), name


def event_kinds() -> Iterator[str]:
    """The kinds of all events in the source."""
    for path in SOURCES:
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                arguments = node.args[1:] if called == "_tell" else node.args
                if called not in ("event", "Event", "_tell") or not arguments:
                    continue
                if isinstance(arguments[0], ast.Constant):
                    yield str(arguments[0].value)
                elif isinstance(arguments[0], ast.Name) and arguments[0].id in logs.__all__:
                    yield str(getattr(logs, arguments[0].id))


def test_every_kind_of_event_is_described() -> None:
    kinds = set(event_kinds())
    assert len(kinds) > 10
    page = read(REFERENCE / "events.md")
    rows = [row for row in page.splitlines() if row.startswith("| `")]
    described = {word for row in rows for word in code_words(row.split("|")[1])}
    assert described == kinds


GRAM = {"snapshot_step": 1, "start_step": 2, "ramp_steps": 1, "refresh_every_steps": 2}


def test_every_file_is_described(bigrunner: Runner) -> None:
    names = ("gram-anchoring", "console", "metrics-log", "tensorboard", "checkpoint-rotation")
    result = bigrunner.run(*names, config=GRAM)
    result.assert_finished()
    layout = read(REFERENCE / "checkpoint-layout.md")
    checkpoint = max((result.directory / "checkpoints").iterdir())
    for path in checkpoint.iterdir():
        assert f"\n| `{path.name}` |" in layout
    for name in ("state.json", "MANIFEST.json"):
        for key in json.loads(read(checkpoint / name)):
            assert f"\n| `{key}` |" in layout, f"{name}: {key}"
    for path in result.directory.iterdir():
        assert f"\n    {path.name}" in layout, path.name


def test_the_run_object_is_described() -> None:
    page = code_words(read(REFERENCE / "run.md"))
    words = {word.partition("(")[0].removeprefix("run.") for word in page}
    source = ast.parse(read(ROOT / "engine/bigrun/run.py"))
    (cls,) = (n for n in source.body if isinstance(n, ast.ClassDef) and n.name == "Run")
    methods = {n.name for n in cls.body if isinstance(n, ast.FunctionDef)}
    attributes = {n.attr for n in ast.walk(cls) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    parts = {n.target.id for n in cls.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    public = {name for name in methods | attributes | parts if not name.startswith("_") and name != "on_failure"}
    assert public <= words


def test_the_harness_is_described() -> None:
    page = code_words(read(REFERENCE / "testing.md"))
    words = {word.partition("(")[0] for word in page}
    assert {name for name in vars(Runner) if not name.startswith("_")} <= words
    fields = {name for name in dir(RunResult) if not name.startswith("_")}
    assert fields <= words
    assert {name for name in vars(PluginContract) if name.startswith("test_")} <= words
    hints = typing.get_type_hints(PluginContract)
    assert {name for name in hints if not name.startswith("_")} <= words


def test_sections_of_the_recipe_exist() -> None:
    headings = set(re.findall(r"^##+ ([0-9.]+) ", read(ROOT / "docs/explanation/objective.md"), re.MULTILINE))
    for path in SOURCES:
        for reference in re.findall(r"\[spec ([0-9., -]+)\]", read(path)):
            for number in re.split(r", |-", reference):
                assert number in headings, f"{path.name}: [spec {reference}]"
