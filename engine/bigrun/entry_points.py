"""What is installed, read from metadata; what a configuration names, imported.

Installed is not active: a plugin is imported only when a configuration names it.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from bigrun.markers import GROUP
from bigrun.unimported import definition
from bigrun.values import Problem, did_you_mean

__all__ = ["Installed", "installed", "load_classes"]


@attrs.frozen
class Installed:
    """An entry point of the group `bigrun`, read from metadata without importing it."""

    name: str
    target: str
    """`package.module:Class`"""
    distribution: str
    version: str

    def declared_kind(self) -> str:
        """`observer` or `critical`, read from the source of the class without running it; `?` if not found."""
        found = definition(self.target)
        if not isinstance(found, ast.ClassDef):
            return "?"
        return "observer" if any(map(_says_observer, found.body)) else "critical"

    def declared_methods(self) -> set[str]:
        """Names of the methods in the source of the class, which is not run; none if it is not found."""
        found = definition(self.target)
        body = found.body if isinstance(found, ast.ClassDef) else []
        return {node.name for node in body if isinstance(node, ast.FunctionDef)}


def _says_observer(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    value = getattr(node, "value", None)
    named = any(isinstance(t, ast.Name) and t.id == "observer" for t in targets)
    return named and isinstance(value, ast.Constant) and value.value is True


def installed() -> dict[str, Installed]:
    """Every installed plugin by name, sorted."""
    return dict(_installed(tuple(_places())))


def _places() -> Iterator[tuple[str, int | None]]:
    """Where Python looks, and when something came or went there: what importlib.metadata's own cache goes by."""
    for place in sys.path:
        try:
            yield place, Path(place or ".").stat().st_mtime_ns
        except OSError:
            yield place, None


@functools.lru_cache(maxsize=1)
def _installed(places: tuple[tuple[str, int | None], ...]) -> Mapping[str, Installed]:
    """Read once for the same places: 6 ms, and a start asks four times."""
    points = importlib.metadata.entry_points(group=GROUP)
    distributions = {id(p.dist): p.dist for p in points if p.dist}
    parsed = {key: each.metadata for key, each in distributions.items()}  # 3 ms each: once, not for each of its plugins
    unknown = {"Name": "?", "Version": "?"}
    facts = [(p, parsed.get(id(p.dist), unknown)) for p in points]
    found = [Installed(p.name, p.value, of["Name"], of["Version"]) for p, of in facts]
    return {plugin.name: plugin for plugin in sorted(found, key=lambda plugin: plugin.name)}


def load_classes(names: Mapping[str, Any], problems: list[Problem]) -> dict[str, type]:
    """Import the plugins that a configuration names: entry points, or `module:Class` for an unpackaged one.

    What cannot be loaded is added to `problems`.
    """
    known = installed()
    classes: dict[str, type] = {}
    for name in names:
        target = known[name].target if name in known else name
        if name not in known and ":" not in name:
            listed = f"installed: {', '.join(known) or 'none'}; a class that is not installed is named module:Class"
            problems.append((f"plugins.{name}", f"no such plugin{did_you_mean(name, known)}; {listed}"))
            continue
        module, _, attribute = target.partition(":")
        try:
            cls: object = functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        except (Exception, SystemExit) as error:
            problems.append((f"plugins.{name}", f"cannot be imported from {target}: {type(error).__name__}: {error}"))
            continue
        if isinstance(cls, type):
            classes[name] = cls
        else:
            problems.append((f"plugins.{name}", f"{target} is not a class"))
    return classes
