"""What the command line changes in the tables of a preset: files, plugins, values. Torch-free."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tomli

from bigrun.errors import UsageError
from bigrun.values import did_you_mean

__all__ = ["laid_over", "leaves", "override"]


def laid_over(tables: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Tables with the values of others, which win; tables within them in the same way."""
    result = dict(tables)
    for key, value in more.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = laid_over(below, value)
        result[key] = value
    return result


def leaves(tables: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The paths of all values: `data.workers`."""
    for key, value in tables.items():
        here = f"{path}.{key}" if path else key
        yield from leaves(value, here) if isinstance(value, Mapping) else [here]


def override(
    tables: Mapping[str, Any], sets: Iterable[str] = (), plugins: Iterable[str] = (), no_plugins: Iterable[str] = ()
) -> dict[str, Any]:
    """A copy of the tables with overrides applied: first plugins on, then off, then values."""
    result = copy.deepcopy(dict(tables))
    active = result.setdefault("plugins", {})
    if not isinstance(active, dict):
        return result  # structure() names the problem
    for name in plugins:
        active.setdefault(name, {})
    for name in no_plugins:
        if name not in active:
            raise UsageError(f"--no-plugin {name}: it is not active{did_you_mean(name, active)}")
        del active[name]
    for text in sets:
        _set(result, text)
    return result


def _set(tables: dict[str, Any], text: str) -> None:
    """Apply one `key.path=value`; the value is a TOML literal (strings need quotes: `'"name"'`)."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or "\n" in text:
        raise UsageError(f"--set {text}: expected KEY=VALUE, as in --set run.max_steps=100")
    try:
        (path, literal) = _only_leaf(tomli.loads(f"{key.strip()} = {value.strip()}"))
    except tomli.TOMLDecodeError:
        try:  # a bare word is a string: --set model.ffn=swiglu
            (path, literal) = _only_leaf(tomli.loads(f"{key.strip()} = ''"))
        except tomli.TOMLDecodeError as error:
            raise UsageError(f"--set {text}: {key!r} is not a TOML key: {error}") from None
        if any(c in value for c in "[]{}\"'=,") or not value.strip():
            raise UsageError(f"--set {text}: the value is not TOML") from None
        literal = value.strip()
    if not path:  # a comment
        raise UsageError(f"--set {text}: expected KEY=VALUE, as in --set run.max_steps=100")
    table = tables
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {text}: {part!r} is not a table")
    table[path[-1]] = literal


def _only_leaf(document: dict[str, Any]) -> tuple[list[str], Any]:
    path: list[str] = []
    value: Any = document
    while isinstance(value, dict) and len(value) == 1:
        (key,) = value
        path.append(key)
        value = value[key]
    return path, value
