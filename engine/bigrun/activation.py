"""From a preset to a configuration and its plugins, each created and registered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bigrun.config import Config, Document, build_config
from bigrun.defaults import Defaults
from bigrun.entry_points import load_classes
from bigrun.errors import BigrunError, PluginError
from bigrun.plugins import Plugins
from bigrun.redaction import redact_error
from bigrun.values import Problem

__all__ = ["activate"]

REPLACEABLE = ("objective", "masking", "teacher")
"""Tables that only the engine's own objective reads."""


def activate(document: Document, companions: Mapping[str, Any] | None = None) -> tuple[Config, Plugins]:
    """Interpret a document and register its plugins.

    Args:
        companions: plugin instances that no configuration names (the command line's own output, a test's recorder).

    Raises:
        ConfigError: with every problem of the document.
        UsageError: a plugin implements an unknown hook, or one that it may not implement.
        PluginError: a plugin cannot be created.
    """
    problems: list[Problem] = []
    tables = document.tables.get("plugins", {})
    classes = load_classes(tables if isinstance(tables, Mapping) else {}, problems)
    replaced = replaced_tables(classes, problems)
    options = {name: getattr(cls, "Config", None) for name, cls in classes.items()}
    config = build_config(document, options, problems, replaced)
    plugins = Plugins()
    plugins.manager.register(Defaults(), "engine")
    for name, cls in classes.items():
        try:
            plugins.activate(name, create(name, cls, config.plugins[name]))
        except BigrunError as error:
            redact_error(error, config.redactor())
            raise
    for name, companion in (companions or {}).items():
        plugins.manager.register(companion, name)
    plugins.hook.configure_hooks(plugins=plugins)
    plugins.check_hooks()
    return config, plugins


def replaced_tables(classes: Mapping[str, type], problems: list[Problem]) -> dict[str, str]:
    """Tables that have no meaning in this run, since a plugin brings an objective with options of its own, by table.

    Such a plugin says so in its class: `replaces = ("objective", "masking", "teacher")`, or some of them.
    """
    replaced: dict[str, str] = {}
    for name, cls in classes.items():
        tables: Any = getattr(cls, "replaces", ())
        if not isinstance(tables, tuple) or not set(tables) <= set(REPLACEABLE):
            expected = ", ".join(map(repr, REPLACEABLE))
            problems.append((f"plugins.{name}", f"`replaces` is {tables!r}, expected a tuple of some of {expected}"))
            continue
        for table in tables:
            if table in replaced:
                problems.append((f"plugins.{name}", f"replaces [{table}], and so does {replaced[table]}: use one"))
            replaced[table] = name
    return replaced


def create(name: str, cls: type, options: Any) -> Any:
    """A plugin instance; `options` is None for a plugin that has no options."""
    try:
        return cls(options) if options is not None else cls()
    except BigrunError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(name, "__init__", 0, error) from error
