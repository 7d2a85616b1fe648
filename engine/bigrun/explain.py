"""`bigrun explain KEY`: an option from its one declaration."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from bigrun.errors import UsageError
from bigrun.options import describe_check, describe_unit
from bigrun.redaction import is_secret
from bigrun.rules import EngineConfig
from bigrun.values import did_you_mean, type_name

__all__ = ["explain_key", "options_of", "section_class"]


def section_class(path: str) -> type:
    """The attrs class behind `model` or `plugins.NAME`.

    Raises:
        UsageError: there is no such table.
    """
    from bigrun.entry_points import installed, load_classes

    if path.startswith("plugins."):
        name = path.removeprefix("plugins.")
        problems: list[tuple[str, str]] = []
        classes = load_classes({name: {}}, problems)
        if problems:
            raise UsageError("; ".join(f"{where}: {text}" for where, text in problems))
        return typing.cast("type", getattr(classes[name], "Config", None) or no_options(classes[name]))
    sections = typing.get_type_hints(EngineConfig)
    if path not in sections:
        known = [*sections, *(f"plugins.{name}" for name in installed())]
        homes = [f"{name}.{path}" for name, cls in sections.items() if path in attrs.fields_dict(cls)]
        hint = f" - did you mean {homes[0]!r}?" if homes else did_you_mean(path, known)
        raise UsageError(f"{path}: no such table{hint}; tables: {', '.join(known)}")
    return typing.cast("type", sections[path])


def no_options(plugin: type) -> type:
    """An empty section with the plugin's own description."""
    return attrs.make_class(plugin.__name__, [], class_body={"__doc__": plugin.__doc__ or ""})


def options_of(cls: type) -> Iterator[tuple[attrs.Attribute[Any], str]]:
    """The options of a section with their types in words."""
    hints = typing.get_type_hints(cls)
    for field in attrs.fields(cls):
        kind = type_name(hints[field.name])
        # None of an option with a rule is not "off": it asks for the rule.
        yield field, kind.removesuffix(" or off") if field.metadata.get("rule") else kind


def default_text(field: attrs.Attribute[Any]) -> str:
    """The default as a person would say it."""
    if field.default is attrs.NOTHING:
        return "none: it is required"
    if field.default is None:
        return "chosen by rule" if field.metadata.get("rule") else "absent"
    value = field.default
    if isinstance(value, Mapping):
        return "empty" if not value else ", ".join(map(str, value))
    return (
        str(list(value)) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else repr(value)
    )


def explain_key(key: str, preset: str | None = None) -> Iterator[str]:
    """Lines about an option or a whole table.

    Raises:
        UsageError: there is no such option or table.
    """
    parts = key.split(".")
    depth = 2 if parts[0] == "plugins" else 1
    path, names = ".".join(parts[:depth]), parts[depth:]
    cls = section_class(path)
    options = {field.name: (field, kind) for field, kind in options_of(cls)}
    if not names:
        yield from explain_table(path, cls, preset)
        return
    (name,) = names if len(names) == 1 else (".".join(names),)
    if name not in options:
        raise UsageError(
            f"{key}: {path} has no such option{did_you_mean(name, options)}; options: {', '.join(options) or 'none'}"
        )
    field, kind = options[name]
    yield key
    yield f"  {field.metadata.get('help', '')}"
    yield f"  type     {kind}"
    yield f"  default  {default_text(field)}"
    if allowed := describe_check(field.metadata.get("check")):
        yield f"  allowed  {allowed}"
    if unit := describe_unit(name):
        yield f"  unit     {unit}"
    if field.metadata.get("effective"):
        yield f"  refused where it has no effect: {field.metadata['otherwise']}"
    if field.metadata.get("fixed"):
        yield "  a resumed run must keep it"
    if is_secret(field):
        yield "  a secret: its value is neither written nor printed"
    if preset is not None:
        yield f"  {preset}  {_value_in(preset, path, name)}"


def explain_table(path: str, cls: type, preset: str | None) -> Iterator[str]:
    """The description of a table, and a line for each option."""
    about = " ".join((cls.__doc__ or "").strip().partition("\n\n")[0].split())
    yield f"[{path}]  {about}".rstrip()
    options = list(options_of(cls))
    if not options:
        yield "  no options"
    for field, kind in options:
        value = f" [{preset}: {_value_in(preset, path, field.name)}]" if preset else ""
        yield f"  {field.name} ({kind}; default {default_text(field)}): {field.metadata.get('help', '')}{value}"


def _value_in(preset: str, path: str, name: str) -> str:
    """The value in a preset, and who chose it."""
    from bigrun.activation import activate
    from bigrun.config import read_preset

    config, _ = activate(read_preset(preset))
    tables = config.public_tables()
    if path in config.replaced:
        return f"without effect here: plugin {config.replaced[path]} replaces [{path}]"
    table = tables["plugins"].get(path.removeprefix("plugins.")) if path.startswith("plugins.") else tables[path]
    if table is None:
        return "this plugin is not active"
    why = next((f" (by rule: {c.why})" for c in config.choices if c.path == f"{path}.{name}"), "")
    return (
        f"{table[name]!r}{why}"
        if name in table
        else "absent: off, chosen when the run is built, or without effect here"
    )
