"""Which options a curve depends on: a band holds for runs that are alike in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from bigrun.entry_points import installed

__all__ = ["differences", "digest", "relevant"]

TABLES = ("model", "init", "views", "objective", "masking", "teacher", "optimizer", "schedule")
OPTIONS = ("run.max_steps", "data.effective_batch")
"""The first, since schedules end there."""
HOOKS = frozenset({"build_dataset", "build_tone", "build_objective", "extra_views", "frozen_modules"})
"""A plugin that implements one of them decides what the images are, or what is learnt from them."""
ACTIVE = "active"


def relevant(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a resolved configuration that curves depend on, by dotted names, as JSON.

    Not among them: seed, paths, precision, micro-batch, hardware, logging, and plugins that neither bring images nor
    change what is learnt. A plugin that is not installed, or not as an entry point, may do so.
    """
    found: dict[str, Any] = {}
    for name in TABLES:
        found.update(flat(table_of(tables, name), name))
    for path in OPTIONS:
        name, _, key = path.partition(".")
        if key in (table := table_of(tables, name)):
            found[path] = table[key]
    known, plugins = installed(), table_of(tables, "plugins")
    for name in plugins:
        if name not in known or known[name].declared_methods() & HOOKS:
            found[f"plugins.{name}"] = ACTIVE
            found.update(flat(table_of(plugins, name), f"plugins.{name}"))
    normal: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return normal


def table_of(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A table of a configuration that may be somebody else's; empty where it is none."""
    table = tables.get(name)
    return table if isinstance(table, Mapping) else {}


def flat(table: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}.{key}")
        elif value is not None:
            yield f"{path}.{key}", value


def digest(options: Mapping[str, Any]) -> str:
    """SHA-256 of options, whatever their order."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()


def differences(band: Mapping[str, Any], run: Mapping[str, Any], explicit: Collection[str] | None = None) -> list[str]:
    """What a run has otherwise, as `model.width 96 -> 192`.

    Args:
        explicit: options that somebody has set. An option that the band does not know, as it is younger than the band,
            counts only if it is one of them; None: it counts.
    """
    found = []
    for name in sorted({*band, *run}):
        before, after = band.get(name), run.get(name)
        is_new = name not in band and explicit is not None and name not in explicit and after != ACTIVE
        is_of_new_plugin = name.startswith("plugins.") and plugin_of(name) not in band
        if before != after and not is_new and not (is_of_new_plugin and after != ACTIVE):
            found.append(f"{name} {shown(before)} -> {shown(after)}")
    return found


def plugin_of(name: str) -> str:
    """`plugins.ct-slices` of `plugins.ct-slices.window`."""
    return ".".join(name.split(".")[:2])


def shown(value: Any) -> str:
    return "absent" if value is None else str(value)
