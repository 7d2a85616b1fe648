"""Write the reference pages that come from the code: hooks.md, options.md and cli.md.

python docs/generate.py            writes them
python docs/generate.py --check    names those that are stale, and exits with 1 if any is
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import click

from bigrun.cli import main as command_line
from bigrun.config import build_config, read_preset, shipped_presets
from bigrun.entry_points import installed, load_classes
from bigrun.explain import default_text, options_of
from bigrun.hookspecs import Hooks
from bigrun.options import describe_check, describe_unit
from bigrun.plugins import Plugins
from bigrun.rules import RULES, EngineConfig

REFERENCE = Path(__file__).parent / "reference"
PROMISES = ("When", "Called", "Processes", "Result", "If it raises")
NOTE = "*This page is generated from the code by `docs/generate.py`.*"

HOOKS_INTRO = f"""\
# Hooks

{NOTE}

Implement a hook as a method of the same name on your plugin class, marked with `bigrun.hookimpl`. Take any subset of
the parameters shown, as ordinary parameters without defaults. The result type is what the caller gets: where it is a
list of all answers, an implementation returns one of them.

The name of a hook states its calling rule:

"""

OPTIONS_INTRO = f"""\
# Options

{NOTE}

A preset is a TOML file with the tables below. Every table and every option may be left out. A value must have exactly
the stated type: `12` is a float, but `12.0` is no int and `"12"` is neither. *off* is written `false`.
`bigrun explain KEY` prints the help of one option or one table.

*Fixed*: a run that is continued must keep the value. *By rule*: left out, the value is computed from the rest of the
configuration, and `bigrun check` prints it with its reason.
"""


def pages() -> dict[Path, str]:
    """Every generated page and its text."""
    makers = {"hooks.md": hooks_page, "options.md": options_page, "cli.md": cli_page}
    return {REFERENCE / name: "\n".join(maker()).rstrip() + "\n" for name, maker in makers.items()}


def stale() -> list[Path]:
    """The generated pages whose file is not what the code says."""
    return [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def built_in() -> dict[str, type]:
    """The classes of bigrun's own plugins by name."""
    names = [plugin.name for plugin in installed().values() if plugin.distribution == "bigrun"]
    problems: list[tuple[str, str]] = []
    classes = load_classes(dict.fromkeys(names), problems)
    assert not problems, problems
    return classes


# -- hooks ----------------------------------------------------------------------------------------------------


def hook_specs() -> dict[str, Any]:
    """Every hook specification by name, in the order of the file, which is the calling order."""
    return {name: spec for name, spec in vars(Hooks).items() if hasattr(spec, "bigrun_spec")}


def signature_of(name: str, spec: Any) -> str:
    """`name(parameters) -> result` as it is written in hookspecs.py, without `self`."""
    signature = inspect.signature(spec)
    parameters = [f"{p.name}: {p.annotation}" for p in signature.parameters.values() if p.name != "self"]
    return f"{name}({', '.join(parameters)}) -> {signature.return_annotation}"


def promises_of(spec: Any) -> dict[str, str]:
    """The lines of a hook's docstring: When, Called, Processes, Result, If it raises."""
    promises: dict[str, str] = {}
    for line in (inspect.getdoc(spec) or "").splitlines():
        label, colon, text = line.partition(": ")
        if colon and label in PROMISES:
            promises[label] = text
        elif promises:
            last = next(reversed(promises))
            promises[last] = f"{promises[last]} {line.strip()}"
    return {label: text.strip() for label, text in promises.items()}


def summary_of(spec: Any) -> str:
    """What stands above these lines."""
    return re.split(r"^When: ", inspect.getdoc(spec) or "", maxsplit=1, flags=re.MULTILINE)[0].strip()


def processes_of(spec: Any) -> tuple[str, str]:
    """Which processes call a hook, and whether collectives are allowed in it."""
    who, _, collectives = promises_of(spec)["Processes"].rstrip(".").partition("; ")
    return who, "allowed" if collectives == "collectives are allowed" else collectives.replace("no collectives", "no")


def hooks_page() -> Iterator[str]:
    users = {name: implementations(cls) for name, cls in built_in().items()}
    yield from HOOKS_INTRO.splitlines()
    yield from fenced(docstring_block(Hooks, "build_x", "The run calls"))
    yield from ("", "The run calls the hooks in this order (in brackets: what the engine does in between):", "")
    yield from fenced(docstring_block(Hooks, "configure_hooks", "Implement a hook"))
    yield from ("", "## Several processes", "", " ".join(docstring_block(Hooks, "A run may have", None).split()), "")
    yield from ("| hook | processes | collectives |", "|---|---|---|")
    yield from (f"| `{name}` | {' | '.join(processes_of(spec))} |" for name, spec in hook_specs().items())
    for name, spec in hook_specs().items():
        yield from ("", f"## `{signature_of(name, spec)}`", "", summary_of(spec), "")
        yield from (f"- *{label}*: {text}" for label, text in promises_of(spec).items())
        yield f"- *Observers*: {'may not' if getattr(spec, 'changes_training', False) else 'may'} implement it."
        by = [f"`{plugin}`" for plugin, hooks in users.items() if name in hooks]
        if by:
            yield f"- *Built-in plugins that use it*: {', '.join(by)}."


def implementations(cls: type) -> set[str]:
    manager = Plugins().manager
    return {name for name in dir(cls) if manager.parse_hookimpl_opts(cls, name) is not None}


def docstring_block(obj: Any, first: str, after: str | None) -> str:
    """The part of a docstring from the line that begins with `first` to the one before `after`, or to its end."""
    lines = (inspect.getdoc(obj) or "").splitlines()
    begin = next(i for i, line in enumerate(lines) if line.strip().startswith(first))
    end = len(lines) if after is None else next(i for i, line in enumerate(lines) if line.startswith(after))
    return textwrap.dedent("\n".join(lines[begin:end])).strip("\n")


def fenced(text: str, language: str = "text") -> Iterator[str]:
    yield f"```{language}"
    yield from textwrap.dedent(text).strip("\n").splitlines()
    yield "```"


# -- options --------------------------------------------------------------------------------------------------


def options_page() -> Iterator[str]:
    yield from OPTIONS_INTRO.splitlines()
    for name, cls in typing.get_type_hints(EngineConfig).items():
        yield from table_of(name, cls)
    yield from ("", "## Values chosen by rule", "")
    yield "What the rules choose in three of the shipped presets:"
    yield from ("", *rules_table(("quickstart", "vit_small", "vit_giant")), "")
    yield "An option of a plugin that is absent may be computed by the plugin; its help says so."
    for name, cls in built_in().items():
        config = getattr(cls, "Config", None)
        if config is not None:
            yield from table_of(f"plugins.{name}", config)
    without = [f"`{name}`" for name, cls in built_in().items() if getattr(cls, "Config", None) is None]
    yield from ("", f"These built-in plugins have no options: {', '.join(without)}.")


def table_of(path: str, cls: type) -> Iterator[str]:
    """A heading and one table row per option."""
    doc = inspect.getdoc(cls) or ""
    link = "[\\1](../explanation/objective.md)"
    yield from ("", f"## `[{path}]`", "", re.sub(r"\[(spec [0-9., -]+)\]", link, " ".join(doc.split())), "")
    yield "| option | type | default | unit | meaning |"
    yield "|---|---|---|---|---|"
    for field, kind in options_of(cls):
        default = default_text(field)
        if field.metadata.get("rule"):  # false would leave it to the rule, too
            default = "by rule"
        shown = default if default in ("absent", "by rule") else f"`{default}`"
        cells = (f"`{field.name}`", kind, shown, describe_unit(field.name) or "", meaning(field))
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def meaning(field: attrs.Attribute[Any]) -> str:
    """The help of an option and what restricts it."""
    metadata = field.metadata
    parts = [metadata.get("help", "")]
    if allowed := describe_check(metadata.get("check")):
        parts.append(f"Allowed: {allowed}.")
    if metadata.get("effective"):
        parts.append(f"Refused where it has no effect: {metadata['otherwise']}.")
    if metadata.get("fixed"):
        parts.append("*Fixed.*")
    return " ".join(parts)


def rules_table(presets: tuple[str, ...]) -> Iterator[str]:
    choices = {preset: {c.path: c for c in chosen(preset)} for preset in presets}
    yield f"| option | {' | '.join(f'`{preset}`' for preset in presets)} |"
    yield "|---|" + "---|" * len(presets)
    for path in RULES:
        if not any(path in chosen_here for chosen_here in choices.values()):
            continue
        cells = []
        for preset in presets:
            choice = choices[preset].get(path)
            cells.append(f"{short(choice.value)}: {choice.why}" if choice else "set by the preset")
        yield f"| `{path}` | {' | '.join(cells)} |"


def chosen(preset: str) -> Any:
    """What the rules choose in a shipped preset."""
    assert preset in shipped_presets()
    document = read_preset(preset)
    classes = {name: getattr(cls, "Config", None) for name, cls in built_in().items()}
    return build_config(document, classes, []).choices


def short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# -- command line ---------------------------------------------------------------------------------------------


def cli_page() -> Iterator[str]:
    yield from ("# Command line", "", NOTE, "")
    yield from paragraphs(command_line.help)
    yield ""
    yield "How a command ends is in [exit codes and errors](exit-codes-and-errors.md)."
    for name, command in commands_of(command_line):
        arguments = [p for p in command.params if isinstance(p, click.Argument)]
        options = [p for p in command.params if isinstance(p, click.Option)]
        words = [f"bigrun {name}", *(["[OPTIONS]"] if options else []), *(metavar_of(a) for a in arguments)]
        yield from ("", f"## `{' '.join(words)}`", "", *paragraphs(command.help))
        if options:
            yield from ("", "| option | meaning |", "|---|---|")
            yield from (option_row(name, option) for option in options)


def option_row(command: str, option: click.Option) -> str:
    """Raises ValueError for an option without help: a page or `--help` that says nothing of it helps nobody."""
    text = (option.help or "").strip()
    if not text:
        raise ValueError(f"bigrun {command} {option.opts[-1]}: has no help: give click.option a `help=`")
    repeated = " May be repeated." if option.multiple and "May be repeated" not in text else ""
    return f"| `{spelling(option)}` | {text}{repeated} |"


def commands_of(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command by its name, those of a group after it as `group command`; also those that entry points add."""
    context = click.Context(group)
    for name in sorted(group.list_commands(context)):
        command = group.get_command(context, name)
        assert command is not None
        yield before + name, command
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{before}{name} ")


def paragraphs(text: str | None) -> Iterator[str]:
    """Help text with its paragraphs on one line each."""
    blocks = (text or "").split("\n\n")
    for number, block in enumerate(blocks):
        if number:
            yield ""
        yield " ".join(block.split())


def metavar_of(parameter: click.Parameter) -> str:
    if parameter.metavar:
        return parameter.metavar
    if isinstance(parameter.type, click.Choice):
        return "{" + "|".join(parameter.type.choices) + "}"
    return str(parameter.name if isinstance(parameter, click.Argument) else parameter.type.name).upper()


def spelling(option: click.Option) -> str:
    return option.opts[-1] if option.is_flag else f"{option.opts[-1]} {metavar_of(option)}"


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        names = [str(path) for path in stale()]
        if names:
            print(f"stale: {', '.join(names)}; refresh with: python docs/generate.py")
        return 1 if names else 0
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
