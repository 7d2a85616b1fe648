"""Every `bigrun ...` line of the documentation means something: commands, options and keys that are there.

Nothing runs here, so that lines of skipped and slow blocks are read, too.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from fenced import Block, blocks_of, page_name, pages

from bigrun.cli import main
from bigrun.config import shipped_presets
from bigrun.entry_points import installed
from bigrun.errors import UsageError
from bigrun.explain import explain_key, section_class
from bigrun.overrides import override
from bigrun.values import structure

CONTINUED, COMMENT, DESCRIPTOR = re.compile(r"\\\n"), re.compile(r"(?m)(?:^|(?<=\s))#.*$"), re.compile(r"\b\d(?=[<>])")
VARIABLE = re.compile(r"\$(?:\{[^}]*\}|\w+|[!?#@*$])")
ASSIGNMENT = re.compile(r"\w+=.*", re.DOTALL)
KEYWORDS = {"!", "{", "do", "else", "if", "then", "time", "until", "while"}
WRAPPERS = {"env", "exec", "ionice", "nice", "nohup", "srun", "sudo", "systemd-run", "taskset", "timeout"}
"""Programs that start the one that they are given, behind words of their own."""
UNKNOWN = "1"
"""What a variable or the output of a command stands for: a word, and a number from 1 on."""


PLACEHOLDER = "PRESET"
"""Any preset."""

INSTALLED = installed()
known_class = functools.cache(section_class)


# -- shell ----------------------------------------------------------------------------------------------------


def without_substitutions(script: str) -> tuple[str, list[str]]:
    """The script with UNKNOWN for each `$(...)`, and what is in them."""
    inner = []
    while (start := script.find("$(")) >= 0:
        depth, end = 1, start + 2
        while depth and end < len(script):
            depth += {"(": 1, ")": -1}.get(script[end], 0)
            end += 1
        inner.append(script[start + 2 : end - 1])
        script = script[:start] + UNKNOWN + script[end:]
    return script, inner


def simple_commands(script: str) -> Iterator[list[str]]:
    """The words of each command, in the order of the script, without redirections."""
    script = COMMENT.sub("", CONTINUED.sub(" ", script))
    script, inner = without_substitutions(script)
    for part in inner:
        yield from simple_commands(part)
    lexer = shlex.shlex(VARIABLE.sub(UNKNOWN, DESCRIPTOR.sub("", script)), posix=True, punctuation_chars="();&|<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    words: list[str] = []
    is_file = False
    for word in lexer:
        if word and set(word) <= set("();&|<>\n"):
            is_file = word[-1] in "<>" or word.endswith(">&")
            if not is_file:
                yield words
                words = []
        elif is_file:
            is_file = False
        else:
            words.append(word)
    yield words


def command_lines(script: str) -> Iterator[list[str]]:
    """What is behind `bigrun` in each command that is one."""
    for words in simple_commands(script):
        while words and (words[0] in KEYWORDS or ASSIGNMENT.fullmatch(words[0])):
            words = words[1:]
        names = [Path(word).name for word in words]
        is_module = re.match(r"python[\d.]* -m bigrun\b", " ".join(names)) is not None
        if "bigrun" in names and (is_module or names[0] in ("bigrun", *WRAPPERS)):
            yield words[names.index("bigrun") + 1 :]


# -- click ----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_files_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda path, value, param, ctx: value)


def parsed(words: list[str]) -> click.Context:
    """A command line as click understands it; nothing runs.

    Raises:
        click.UsageError: it does not.
        click.exceptions.Exit: it asks for help or for the version.
    """
    command: click.Command = main
    context, name, rest = None, "bigrun", words
    while isinstance(command, click.Group):
        if not rest or rest[0].startswith("-"):
            return command.make_context(name, rest, parent=context)
        context = click.Context(command, info_name=name, parent=context)
        found, sub, rest = command.resolve_command(context, rest)
        assert found is not None
        assert sub is not None
        name, command = found, sub
    return command.make_context(name, list(rest), parent=context)


def wrong_with(words: list[str], *, keys: bool = True) -> list[str]:
    """What is wrong with a command line.

    Args:
        keys: look at the options, plugins and presets that it names, too.
    """
    try:
        context = parsed(words)
    except click.exceptions.Exit:
        return []
    except click.ClickException as error:
        return [error.format_message()]
    return list(wrong_names(context.params)) if keys else []


def wrong_names(given: Mapping[str, Any]) -> Iterator[str]:
    """Presets, plugins and keys that are not there."""
    preset = given.get("preset") or PLACEHOLDER
    if preset != PLACEHOLDER and not preset.endswith(".toml") and preset not in shipped_presets():
        yield f"{preset}: no such preset"
    for kind in ("plugins", "no_plugins", "drop_plugins"):
        unknown = [name for name in given.get(kind, ()) if ":" not in name and name not in INSTALLED]
        yield from (f"{name}: no such plugin" for name in unknown)
    try:
        yield from wrong_values(override({}, given.get("sets", ())))
        if ":" not in given.get("key", ":"):  # one that is not installed cannot be explained here
            list(explain_key(given["key"]))
    except UsageError as error:
        yield str(error)


def wrong_values(tables: Mapping[str, Any]) -> Iterator[str]:
    """Of options that are set: those that are not there, and values of another type."""
    plugins = {f"plugins.{name}": table for name, table in tables.get("plugins", {}).items() if ":" not in name}
    for path, table in ({name: table for name, table in tables.items() if name != "plugins"} | plugins).items():
        cls = known_class(path)
        without: list[tuple[str, str]] = []
        structure({}, cls, path, without)
        problems: list[tuple[str, str]] = []
        structure(table, cls, path, problems)
        yield from (f"{where}: {text}" for where, text in problems if (where, text) not in without)


# -- pages ----------------------------------------------------------------------------------------------------


def lines_of(block: Block) -> Iterator[list[str]]:
    try:
        yield from command_lines(block.script())
    except ValueError as error:
        raise ValueError(f"{block.where}: {error}") from error


PAGES = [page for page in pages() if any(block.is_commands and "bigrun" in block.text for block in blocks_of(page))]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_command_lines_of_a_page_mean_something(page: Path) -> None:
    wrong = [
        f"{block.where}: bigrun {shlex.join(words)}: {text}"
        for block in blocks_of(page)
        if block.is_commands
        for words in lines_of(block)
        for text in wrong_with(words, keys=(block.action, block.argument) != ("exits", "2"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("bigrun run x \\\n  --set 'c=[1, 2]' > y 2>&1 &\nls", [["run", "x", "--set", "c=[1, 2]"]]),
        ("nice -n 15 bigrun runs 2> /dev/null | cat", [["runs"]]),
        ("OMP_NUM_THREADS=1 .venv/bin/bigrun runs && python3 -m bigrun presets", [["runs"], ["presets"]]),
        ("for s in 0 1; do\n  bigrun run x --set run.seed=$s\ndone", [["run", "x", "--set", "run.seed=1"]]),
        ("(ulimit -f 6; bigrun runs) || bigrun check ${x##*-}.toml # bigrun no", [["runs"], ["check", "1.toml"]]),
        ('bigrun data import "$(python -c "print(1, (2))")/x" $((1 + 2))', [["data", "import", "1/x", "1"]]),
        ("x=$(bigrun runs --json)", [["runs", "--json"]]),
        ("bigrun checkpoints verify runs/long 5 > x\n# bigrun no", [["checkpoints", "verify", "runs/long", "5"]]),
        ("printf 'bigrun run' | cat\ncd bigrun\npip install bigrun\nmkdir bigrun_mae", []),
    ],
)  # fmt: skip
def test_command_lines_are_found_in_scripts(script: str, found: list[list[str]]) -> None:
    assert list(command_lines(script)) == found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "Usage: bigrun"),
        ("rnu quickstart", "No such command 'rnu'"),
        ("data chek images", "No such command 'chek'"),
        ("run quickstart --dry-rnu", "No such option"),
        ("run", "Missing argument 'PRESET'"),
        ("run quickstart vit_tiny", "unexpected extra argument"),
        ("run quickstart --steps many --dry-run", "'many' is not a valid integer"),
        ("export runs/x", "Missing option '--to'"),
        ("export runs/x --to onnx", "'onnx' is not one of 'timm'"),
        ("tune quickstart --workers 0,x", "expected numbers from 0 on"),
        ("run quickstar", "quickstar: no such preset"),
        ("run quickstart --plugin gram", "gram: no such plugin"),
        ("check quickstart --no-plugin gram", "gram: no such plugin"),
        ("check quickstart --set data.pth=x", "data.pth: unknown option - did you mean 'path'?"),
        ("check quickstart --set dta.path=x", "dta: no such table - did you mean 'data'?"),
        ("check quickstart --set data.workers=many", "data.workers: expected int"),
        ("check quickstart --set model.ffn=swiglo", "model.ffn: expected 'mlp' or 'swiglu'"),
        ("check quickstart --set run.max_steps", "expected KEY=VALUE"),
        ("check quickstart --set plugins.gram-anchoring.wieght=1", "unknown option - did you mean 'weight'?"),
        ("check quickstart --set 'plugins.gram-anchoring={weight=1, snapshot=1}'", "snapshot: unknown option"),
        ("check quickstart --set plugins.gram.weight=1", "plugins.gram: no such plugin"),
        ("explain model.dpeth", "model has no such option"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_command_line_is_said(line: str, said: str) -> None:
    wrong = wrong_with(shlex.split(line))
    assert len(wrong) == 1
    assert said in wrong[0]


@pytest.mark.parametrize(
    "line",
    [
        "run PRESET --run-dir nowhere --plugin my_module:MyPlugin",
        "plan quickstart --measured nowhere",
        "check no.toml --with no.toml --set 'plugins.\"a:B\".c=1' --set plugins.ct-slices.datasets.a.hu_slope=1",
        "export nowhere --to timm",
        "--help",
    ],
)
def test_what_is_not_here_is_nothing_wrong(line: str) -> None:
    assert wrong_with(shlex.split(line)) == []
