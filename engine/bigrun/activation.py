"""From a preset to a configuration and its plugins, each created and registered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bigrun.config import Config, Document, build_config
from bigrun.defaults import Defaults
from bigrun.entry_points import load_classes
from bigrun.errors import BigrunError, PluginError
from bigrun.plugins import Plugins
from bigrun.values import Problem

__all__ = ["activate"]


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
    config = build_config(document, {n: getattr(cls, "Config", None) for n, cls in classes.items()}, problems)
    plugins = Plugins()
    plugins.manager.register(Defaults(), "engine")
    for name, cls in classes.items():
        plugins.activate(name, create(name, cls, config.plugins[name]))
    for name, companion in (companions or {}).items():
        plugins.manager.register(companion, name)
    plugins.hook.configure_hooks(plugins=plugins)
    plugins.check_hooks()
    return config, plugins


def create(name: str, cls: type, options: Any) -> Any:
    """A plugin instance; `options` is None for a plugin that has no options."""
    try:
        return cls(options) if options is not None else cls()
    except BigrunError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(name, "__init__", 0, error) from error
