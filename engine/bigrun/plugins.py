"""Plugins: what is installed, what is active, and what happens when one fails.

Installed is not active: a plugin is imported only when a configuration names it.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs
import pluggy

from bigrun.checkpoint.facts import encode_facts
from bigrun.errors import BigrunError, PluginError, UsageError
from bigrun.hookspecs import Hooks
from bigrun.values import Problem, did_you_mean

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["Failure", "Installed", "Plugins", "installed", "load_classes"]

GROUP = "bigrun"


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
        module, _, name = self.target.partition(":")
        source = _source_of(module)
        if source is None:
            return "?"
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return "observer" if any(map(_says_observer, node.body)) else "critical"
        return "?"


def _source_of(module: str) -> str | None:
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)  # a top-level name: finding it imports nothing
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in ("/".join([folder, *rest]) + ".py", "/".join([folder, *rest, "__init__.py"])):
            try:
                return Path(file).read_text(encoding="utf-8")
            except OSError:
                continue
    if spec and spec.origin and not rest:
        return Path(spec.origin).read_text(encoding="utf-8")
    return None


def _says_observer(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    value = getattr(node, "value", None)
    named = any(isinstance(t, ast.Name) and t.id == "observer" for t in targets)
    return named and isinstance(value, ast.Constant) and value.value is True


def installed() -> dict[str, Installed]:
    """Every installed plugin by name, sorted."""
    points = importlib.metadata.entry_points(group=GROUP)
    found = [
        Installed(p.name, p.value, p.dist.name if p.dist else "?", p.dist.version if p.dist else "?") for p in points
    ]
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
            hint = did_you_mean(name, known)
            problems.append((f"plugins.{name}", f"no such plugin{hint}; installed: {', '.join(known) or 'none'}"))
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


@attrs.frozen
class Failure:
    """How an observer failed."""

    plugin: str
    hook: str
    step: int
    error: str
    traceback: str


class Plugins:
    """The active plugins of one run.

    Each is registered through a module-like carrier whose functions contain failures: a critical plugin's exception
    becomes a `PluginError`; an observer's is kept, the observer falls silent at once, and is quarantined at the next
    agreement of all processes.
    """

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(GROUP)
        self.manager.add_hookspecs(Hooks)
        self.hook = cast("Hooks", self.manager.hook)
        self.step = 0
        self.active: dict[str, Any] = {}
        self.failures: dict[str, Failure] = {}
        self.quarantined: list[str] = []
        self.on_failure: Callable[[Failure], None] = lambda failure: None

    def add_hooks(self, specs: type) -> None:
        """Add the hook specifications of a class (marked with `pluggy.HookspecMarker("bigrun")`)."""
        self.manager.add_hookspecs(specs)

    def activate(self, name: str, plugin: Any) -> None:
        """Register a plugin instance under its name.

        Raises:
            UsageError: an observer implements a hook that changes training, or a hook's parameters are wrong.
        """
        carrier = types.ModuleType(name)
        for attribute, options in self.implementations(plugin):
            function = getattr(plugin, attribute)
            if getattr(plugin, "observer", False):
                self._check_observer(name, attribute, options)
            contained = self._contain_wrapper if options["wrapper"] else self._contain
            hook = options["specname"] or attribute
            wrapped = contained(name, hook, function, observer=getattr(plugin, "observer", False))
            setattr(carrier, attribute, pluggy.HookimplMarker(GROUP)(wrapped, **options))
        try:
            self.manager.register(carrier, name)
        except pluggy.PluginValidationError as error:
            raise UsageError(f"plugins.{name}: {error}") from None
        self.active[name] = plugin

    def check_hooks(self) -> None:
        """Refuse implementations of hooks that nobody specified.

        Raises:
            UsageError: naming plugin and hook, with the nearest known hook.
        """
        known = [name for name in vars(self.hook) if not name.startswith("_")]
        for name in known:
            caller = getattr(self.hook, name)
            for impl in caller.get_hookimpls():
                if not caller.has_spec() and not impl.optionalhook:
                    hint = did_you_mean(name, [n for n in known if getattr(self.hook, n).has_spec()])
                    raise UsageError(f"plugins.{impl.plugin_name}: unknown hook {name!r}{hint}")

    def implementations(self, plugin: Any) -> Iterator[tuple[str, Any]]:
        """(attribute, pluggy's options) of every method of a plugin that is marked as a hook."""
        for attribute in dir(type(plugin)):
            options = self.manager.parse_hookimpl_opts(plugin, attribute)
            if options is not None:
                pluggy_defaults = {"specname": None, "wrapper": False, "hookwrapper": False, "optionalhook": False}
                yield attribute, pluggy_defaults | {"tryfirst": False, "trylast": False} | dict(options)

    def _check_observer(self, name: str, attribute: str, options: Mapping[str, Any]) -> None:
        hook = options["specname"] or attribute
        if getattr(getattr(Hooks, hook, None), "changes_training", False):
            raise UsageError(
                f"plugins.{name}: an observer may not implement {hook}, which changes training; "
                "remove the hook, or `observer = True`"
            )
        if options["wrapper"] or options["hookwrapper"]:
            raise UsageError(f"plugins.{name}: an observer may not wrap a hook ({hook})")

    def _contain(self, name: str, hook: str, function: Callable[..., Any], *, observer: bool) -> Callable[..., Any]:
        @functools.wraps(function)
        def contained(*args: Any) -> Any:
            if name in self.failures and hook != "teardown":  # what it holds must still be released
                return None
            try:
                return function(*args)
            except BigrunError:
                if not observer:
                    raise
                self._fail(name, hook)
            except (Exception, SystemExit) as error:
                if not observer:
                    raise PluginError(name, hook, self.step, error) from error
                self._fail(name, hook)
            return None

        return contained

    def _contain_wrapper(
        self, name: str, hook: str, function: Callable[..., Any], *, observer: bool
    ) -> Callable[..., Any]:
        @functools.wraps(function)
        def contained(*args: Any) -> Any:
            try:
                return (yield from function(*args))
            except BigrunError:
                raise
            except (Exception, SystemExit) as error:
                raise PluginError(name, hook, self.step, error) from error

        return contained

    def _fail(self, name: str, hook: str) -> None:
        """Remember an observer's failure; it falls silent here and now."""
        text = traceback.format_exc()
        failure = Failure(name, hook, self.step, text.strip().splitlines()[-1], text)
        self.failures.setdefault(name, failure)
        self.on_failure(failure)

    # -- agreement over processes -----------------------------------------------------------------------------

    def observers(self) -> list[str]:
        """Observers in an order that is the same on every process."""
        return sorted(name for name, plugin in self.active.items() if getattr(plugin, "observer", False))

    def failed_bits(self) -> int:
        """Bit i is set when observer i failed here and is not quarantined yet."""
        return sum(1 << i for i, name in enumerate(self.observers()) if name in self.failures)

    def quarantine(self, bits: int, run: Run) -> list[str]:
        """Unregister the observers that failed on any process; returns their names."""
        names = [name for i, name in enumerate(self.observers()) if bits >> i & 1]
        for name in names:
            self._only(name, "teardown")(run=run)
            del self.active[name]
            self.manager.unregister(name=name)
            self.quarantined.append(name)
        return names

    # -- calls that everybody must hear -----------------------------------------------------------------------

    def notify(self, hook: str, **arguments: Any) -> list[tuple[str, BaseException]]:
        """Call a hook of every plugin even if some raise; returns who raised what."""
        errors: list[tuple[str, BaseException]] = []
        for name, _ in self.manager.list_name_plugin():
            try:
                self._only(name, hook)(**arguments)
            except Exception as error:
                errors.append((name, error))
        return errors

    def _only(self, name: str, hook: str) -> Callable[..., Any]:
        """A hook of one plugin alone."""
        others = [plugin for other, plugin in self.manager.list_name_plugin() if other != name and plugin is not None]
        return self.manager.subset_hook_caller(hook, others)

    # -- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The facts that plugins keep in a checkpoint, by name; JSON. An observer that fails here keeps none."""
        return {
            name: {
                "state_version": getattr(plugin, "state_version", 1),
                "observer": bool(getattr(plugin, "observer", False)),
                "state": self._contained(name, "state_dict", _json_state)(name, plugin),
            }
            for name, plugin in self.active.items()
        }

    def load_state(self, name: str, state: Any) -> None:
        """Give a plugin back what its `state_dict` has returned."""
        plugin = self.active[name]
        if state is not None and hasattr(plugin, "load_state_dict"):
            self._contained(name, "load_state_dict", plugin.load_state_dict)(state)

    def _contained(self, name: str, method: str, function: Callable[..., Any]) -> Callable[..., Any]:
        observer = getattr(self.active[name], "observer", False)
        return self._contain(name, method, function, observer=observer)


def _json_state(name: str, plugin: Any) -> Any:
    if not hasattr(plugin, "state_dict"):
        return None
    state = plugin.state_dict()
    encode_facts(state, f"the state of plugin {name}")
    return state
