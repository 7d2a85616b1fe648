"""Which plugins take part when a checkpoint is visited, and whose code is started at all.

A checkpoint's configuration may be somebody else's. It may switch on plugins that are installed here, as a preset may;
code that is not installed (`module:Class`) is only started when the user names it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import attrs
import pluggy

from bigrun.config import Document
from bigrun.entry_points import installed, load_classes
from bigrun.errors import UsageError
from bigrun.markers import GROUP
from bigrun.values import Problem, did_you_mean

__all__ = ["choose_visitors", "way_out"]

HOOK = "measurements"


def choose_visitors(
    document: Document, named: Collection[str], saved: Mapping[str, Any], say: Callable[[str], None]
) -> Document:
    """The configuration with the plugins that are of use: those that change what is built, which data sets and
    objectives come from, and of the observers those that measure.

    Args:
        named: plugins that the user has asked for.
        saved: by plugin, what the checkpoint says of it; `observer` decides about one that cannot be loaded.
        say: hears which plugins are left out, and why.

    Raises:
        UsageError: code that is not installed and that nobody has named, a plugin that cannot be loaded and that the
            run depended on, or no plugin that measures.
    """
    tables = document.tables.get("plugins", {})
    if not isinstance(tables, Mapping):
        return document  # which the configuration's reader refuses
    refuse_foreign_code(document, named)
    classes = load_active(document, named, saved, say)
    kept = {name for name, cls in classes.items() if name in named or not is_observer(cls) or measures(cls)}
    idle = [name for name in classes if name not in kept]
    if idle:
        say(f"left out     {', '.join(idle)}: nothing to measure in a checkpoint")
    if not any(measures(classes[name]) for name in kept):
        raise UsageError(
            f"{document.source}: no active plugin measures a checkpoint: add one that does with --plugin NAME "
            "(`bigrun plugins` lists what is installed)"
        )
    chosen = {name: table for name, table in tables.items() if name in kept}
    return attrs.evolve(document, tables={**document.tables, "plugins": chosen})


@contextlib.contextmanager
def way_out(document: Document) -> Iterator[None]:
    """Where a plugin of the run refuses (`plugins.NAME: ...`), as one that needs a GPU does, say how to do without."""
    try:
        yield
    except UsageError as error:
        for name in document.tables["plugins"]:
            if str(error).startswith(f"plugins.{name}:"):
                raise UsageError(f"{error}; to look at the checkpoint without it: --no-plugin {name}") from error
        raise


def refuse_foreign_code(document: Document, named: Collection[str]) -> None:
    """Raises: UsageError naming every plugin of the form module:Class that only the checkpoint names."""
    foreign = [name for name in document.tables["plugins"] if ":" in name and name not in named]
    if foreign:
        ways = " ".join(f"--plugin {name}" for name in foreign)
        raise UsageError(
            f"{document.source}: names code that is not installed, {', '.join(foreign)}: say {ways} if you know it and "
            f"want it started, else {' '.join(f'--no-plugin {name}' for name in foreign)}"
        )


def load_active(
    document: Document, named: Collection[str], saved: Mapping[str, Any], say: Callable[[str], None]
) -> dict[str, type]:
    """The classes of the plugins; an observer that cannot be loaded is left out, unless the user has named it."""
    names, known, problems = document.tables["plugins"], installed(), list[Problem]()
    lacking = [name for name in names if name not in known and ":" not in name]
    typed = {name: did_you_mean(name, known) for name in named}  # a checkpoint's configuration has no slips of the pen
    missing = {name: f"is not installed here{typed.get(name, '')}" for name in lacking}
    classes = load_classes({name: None for name in names if name not in missing}, problems)
    broken = {path.removeprefix("plugins."): text for path, text in problems}
    needed = []
    for name, why in (missing | broken).items():
        if name not in named and saved.get(name, {}).get("observer") is True:
            say(f"left out     {name}: {why}")
        else:
            needed.append(f"  plugins.{name}: {why}")
    if needed:
        raise UsageError("\n".join([
            f"{document.source}: plugins that the run depended on, or that you name, are not here:",
            *needed,
            "install them, or leave one out with --no-plugin NAME if the networks and the data can be built without",
        ]))  # fmt: skip
    return classes


def is_observer(cls: type) -> bool:
    return bool(getattr(cls, "observer", False))


def measures(cls: type) -> bool:
    """Whether a plugin answers `measurements`."""
    manager = pluggy.PluginManager(GROUP)
    found = ((name, manager.parse_hookimpl_opts(cls, name)) for name in dir(cls))
    return any(options is not None and (options.get("specname") or name) == HOOK for name, options in found)
