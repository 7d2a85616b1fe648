"""The active plugins of a run, and what happens when one fails."""

from __future__ import annotations

import functools
import json
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import attrs
import pluggy

from bigrun.answers import CHECKS, Check, check_answer
from bigrun.checkpoint.facts import encode_facts
from bigrun.errors import BigrunError, PluginError, UsageError
from bigrun.hookspecs import Hooks
from bigrun.markers import GROUP, hookimpl
from bigrun.peers.errors import ApartError
from bigrun.values import did_you_mean

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["Failure", "Plugins"]


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
        self.builders: dict[str, str] = {}
        """Which plugin answered a `build_` hook; none for the engine's own answer."""
        self.checks: dict[str, Check] = dict(CHECKS)
        """By hook, what its answers are to be."""
        self.on_failure: Callable[[Failure, BaseException], None] = lambda failure, error: None

    def add_hooks(self, specs: type, checks: Mapping[str, Check] | None = None) -> None:
        """Add the hook specifications of a class (marked with `pluggy.HookspecMarker("bigrun")`).

        Args:
            checks: by hook, in words what an answer other than None is to be, and whether one is that. A wrong answer
                is the failure of the plugin that gave it.
        """
        self.manager.add_hookspecs(specs)
        self.checks.update(checks or {})

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
            setattr(carrier, attribute, hookimpl(wrapped, **options))
        try:
            self.manager.register(carrier, name)
        except pluggy.PluginValidationError as error:
            raise UsageError(f"plugins.{name}: {' '.join(str(error).split())}") from None
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
                answer = function(*args)
                check_answer(hook, answer, self.checks)
                if hook.startswith("build_") and answer is not None:
                    self.builders[hook] = name
                return answer
            except BigrunError as error:
                if not observer or isinstance(error, ApartError):
                    raise
                self._fail(name, hook, error)
            except (Exception, SystemExit) as error:
                if not observer:
                    raise PluginError(name, hook, self.step, error) from error
                self._fail(name, hook, error)
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

    def _fail(self, name: str, hook: str, error: BaseException) -> None:
        """Remember an observer's failure; it falls silent here and now."""
        text = traceback.format_exc()
        failure = Failure(name, hook, self.step, text.strip().splitlines()[-1], text)
        self.failures.setdefault(name, failure)
        self.on_failure(failure, error)

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
                **({"before_leaving": str(advice)} if (advice := getattr(plugin, "before_leaving", None)) else {}),
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
    # A copy: the checkpoint is written while the plugin goes on.
    return json.loads(encode_facts(plugin.state_dict(), f"the state of plugin {name}"))
