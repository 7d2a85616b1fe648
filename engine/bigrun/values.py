"""Strict values: TOML into attrs classes, exactly, with every problem named by its TOML path.

cattrs alone is lax ("12" becomes 12, 1.7 becomes 1, "false" becomes True); here a value has the declared type or is a
problem. Off is spelled `false` for an option that is on by default (`clip_norm = false`); TOML has no null.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs

from bigrun.options import NoEffect
from bigrun.redaction import is_secret

__all__ = ["Problem", "as_lists", "did_you_mean", "show", "structure", "structure_option", "type_name", "unstructure"]

Problem = tuple[str, str]
T = TypeVar("T")


class Unexpected(ValueError):
    """A value of another type than declared."""

    def __init__(self, expected: str, got: Any) -> None:
        super().__init__(f"expected {expected}, got {show(got)}")


def show(value: Any) -> str:
    """A value as TOML writes it, near enough for a message."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """` - did you mean 'x'?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f" - did you mean {near[0]!r}?" if near else ""


def type_name(kind: Any) -> str:
    """A declared type in plain words: `int or off`, `'mlp' or 'swiglu'`, `[float, float]`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join("off" if a is types.NoneType else type_name(a) for a in arguments)
    if origin is Literal:
        return " or ".join(show(a) for a in arguments)
    if origin is tuple:
        inner = [type_name(a) for a in arguments if a is not ...]
        return f"list of {inner[0]}" if arguments[-1] is ... else f"[{', '.join(inner)}]"
    if origin in (dict, Mapping):
        return "table"
    if attrs.has(kind):
        return "table"
    return {str: "string", Path: "path (string)"}.get(kind, getattr(kind, "__name__", str(kind)))


def _exact(kind: type) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise Unexpected(type_name(kind), value)
        return value

    return hook


def _text(value: Any, _: Any) -> str:
    if type(value) is not str:
        raise Unexpected("string", value)
    if any("\ud800" <= character <= "\udfff" for character in value):  # bytes of a command line that are no text
        raise ValueError(f"expected text in UTF-8, got {show(value)}")
    return value


def _float(value: Any, _: Any) -> float:
    if type(value) not in (int, float):
        raise Unexpected("float", value)
    if not math.isfinite(value):
        raise Unexpected("a finite float", value)
    return float(value)


def _path(value: Any, _: Any) -> Path:
    if type(value) is not str:
        raise Unexpected("path (string)", value)
    return Path(value).expanduser()


def _literal(value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    if not any(type(value) is type(c) and value == c for c in choices):
        hint = did_you_mean(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
        raise ValueError(f"expected {type_name(kind)}, got {show(value)}{hint}")
    return value


def is_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal


def is_optional(kind: Any) -> bool:
    arguments = get_args(kind)
    return get_origin(kind) in (Union, types.UnionType) and types.NoneType in arguments and len(arguments) == 2


def is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def is_tables(kind: Any) -> bool:
    """Whether it is a table of tables of one kind, by names that the user chooses: `Mapping[str, Options]`."""
    return get_origin(kind) in (dict, Mapping) and attrs.has(get_args(kind)[1])


def build_converter() -> cattrs.Converter:
    """A converter that changes no value's meaning."""
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)

    def optional(value: Any, kind: Any) -> Any:
        (inner,) = [a for a in get_args(kind) if a is not types.NoneType]
        if value is None or (value is False and inner is not bool):
            return None
        try:
            return converter.structure(value, inner)
        except Unexpected as error:
            raise Unexpected(type_name(kind), value) from error

    def sequence(value: Any, kind: Any) -> tuple[Any, ...]:
        inner = get_args(kind)
        if not isinstance(value, list | tuple):
            raise Unexpected(type_name(kind), value)
        if inner[-1] is ...:
            return tuple(converter.structure(item, inner[0]) for item in value)
        if len(value) != len(inner):
            raise ValueError(f"expected {len(inner)} values, got {len(value)}: {show(list(value))}")
        return tuple(converter.structure(item, k) for item, k in zip(value, inner, strict=True))

    converter.register_structure_hook(str, _text)
    for kind in (int, bool):
        converter.register_structure_hook(kind, _exact(kind))
    converter.register_structure_hook(float, _float)
    converter.register_structure_hook(Path, _path)
    converter.register_structure_hook_func(is_literal, _literal)
    converter.register_structure_hook_func(is_optional, optional)
    converter.register_structure_hook_func(is_tuple, sequence)
    return converter


def structure(table: Any, cls: type[T], path: str, problems: list[Problem]) -> T | None:
    """A table as an instance of an attrs class, or None after adding to `problems` all that is wrong with it."""
    before = len(problems)
    if not isinstance(table, Mapping):
        problems.append((path, f"expected a table, got {show(table)}"))
        return None
    hints = typing.get_type_hints(cls)
    fields = attrs.fields_dict(cls)  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            problems.append((_join(path, key), f"unknown option{did_you_mean(key, fields)}"))
    values = {}
    for name, field in fields.items():
        here = _join(path, name)
        if name in table:
            values[name] = _value(table[name], hints[name], field, here, problems)
        elif field.default is attrs.NOTHING:
            problems.append((here, f"is required: expected {type_name(hints[name])}"))
    if len(problems) > before:
        return None
    try:
        instance = cls(**values)
    except (TypeError, ValueError) as error:  # a third party's own validator
        problems.append((path, str(error)))
        return None
    problems += [(_join(path, name), text) for name, text in getattr(instance, "problems", tuple)()]
    problems += _dead(table, fields, instance, path)
    return instance


def structure_option(value: Any, cls: type, name: str, path: str, problems: list[Problem]) -> Any:
    """One option's value in its own type, or None after adding to `problems` what is wrong with it."""
    field = attrs.fields_dict(cls)[name]
    return _value(value, typing.get_type_hints(cls)[name], field, _join(path, name), problems)


def _value(value: Any, kind: Any, field: attrs.Attribute[Any], path: str, problems: list[Problem]) -> Any:
    if attrs.has(kind):
        return structure(value, kind, path, problems)
    if is_tables(kind):
        if not isinstance(value, Mapping):
            problems.append((path, f"expected a table, got {show(value)}"))
            return None
        inner = get_args(kind)[1]
        return {name: structure(table, inner, _join(path, name), problems) for name, table in value.items()}
    try:
        result = CONVERTER.structure(value, kind)
    except Exception as error:
        text = str(error) or f"expected {type_name(kind)}, got {show(value)}"
        problems.append((path, f"expected {type_name(kind)}, got something else" if is_secret(field) else text))
        return None
    check = field.metadata.get("check")
    wrong = check(result) if check and result is not None else None
    if wrong:
        problems.append((path, "is not what it may be" if is_secret(field) else wrong))
    return result


def _dead(table: Mapping[str, Any], fields: Mapping[str, Any], instance: Any, path: str) -> list[Problem]:
    """Options that are set and have no effect."""
    dead: list[Problem] = []
    for name in table:
        effective = fields[name].metadata.get("effective")
        if effective and not effective(instance):
            why = fields[name].metadata["otherwise"]
            dead.append((_join(path, name), NoEffect(f"has no effect because {why}: remove it, or change that")))
    return dead


def unstructure(instance: Any) -> dict[str, Any]:
    """An attrs instance as a TOML table that `structure` reads back as the same instance."""
    table: dict[str, Any] = {}
    for field in attrs.fields(type(instance)):
        value = getattr(instance, field.name)
        effective = field.metadata.get("effective")
        if effective and not effective(instance):
            continue
        if value is None:
            if field.default is None:
                continue
            value = False
        elif attrs.has(type(value)):
            value = unstructure(value)
        elif isinstance(value, Path):
            value = str(value)
        elif isinstance(value, Mapping):
            value = {name: unstructure(inner) if attrs.has(type(inner)) else inner for name, inner in value.items()}
        table[field.name] = as_lists(value)
    return table


def as_lists(value: Any) -> Any:
    """Tuples, nested ones too, as TOML's arrays."""
    return [as_lists(item) for item in value] if isinstance(value, tuple) else value


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


CONVERTER = build_converter()
