"""The hooks of a run that is rehearsed: who builds answers, who trains takes part, who watches is not asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

from bigrun.errors import BigrunError
from bigrun.markers import hookimpl

if TYPE_CHECKING:
    from bigrun.plugins import Plugins
    from bigrun.run import Run

__all__ = ["DeclareRehearsal", "RehearsalHooks", "RehearsedHooks"]

hookspec = pluggy.HookspecMarker("bigrun")

BUILDING = frozenset(
    {
        "build_dataset",
        "build_tone",
        "extra_views",
        "build_objective",
        "frozen_modules",
        "build_optimizer",
    }
)
STEPPING = frozenset({"configure_model", "on_start", "rehearse", "before_step", "loss_terms", "after_update"})


class RehearsalHooks:
    """What `bigrun plan` asks beside the hooks of a run; a plugin implements it with `hookimpl(optionalhook=True)`."""

    @hookspec
    def rehearse(self, run: Run) -> None:
        """Be as you are when you take the most memory: have what you would have by then, with any values.

        When: after `on_start`, in a rehearsal, where tensors have no values. No step has been taken; the ones that
            are rehearsed are the last ones of the run, or far in the future of a run without end.
        Called: once, of critical plugins.
        Result: none.
        If it raises: the plugin takes no part in the steps, and the plan says so.
        """


class DeclareRehearsal:
    """A companion that makes the hook known."""

    @hookimpl
    def configure_hooks(self, plugins: Plugins) -> None:
        plugins.add_hooks(RehearsalHooks)


class RehearsedHooks:
    """Stands for `run.hook`.

    Observers change nothing in training and are left out. `before_update` and what follows a step are left out too:
    they look at values, and there are none. A critical plugin that cannot do its part without values, or at the last
    step, is left out from then on and noted; its frozen modules still count.
    """

    def __init__(self, plugins: Plugins) -> None:
        self.plugins = plugins
        self.refused: dict[str, str] = {}
        """Why a plugin takes no part in the steps, by its name."""

    def __getattr__(self, hook: str) -> Callable[..., Any]:
        if hook in BUILDING:
            return getattr(self.plugins.hook, hook)  # type: ignore[no-any-return]
        if hook in STEPPING:
            return lambda **arguments: self._ask_each(hook, arguments)
        return lambda **arguments: []

    def _ask_each(self, hook: str, arguments: dict[str, Any]) -> list[Any]:
        answers: list[Any] = []
        everybody = [(name, plugin) for name, plugin in self.plugins.manager.list_name_plugin() if plugin is not None]
        for name, _ in everybody:
            is_observer = getattr(self.plugins.active.get(name), "observer", False)
            if is_observer or name in self.refused:
                continue
            others = [plugin for other, plugin in everybody if other != name]
            try:
                answers += self.plugins.manager.subset_hook_caller(hook, others)(**arguments)
            except BigrunError as error:
                if name not in self.plugins.active:  # the engine's own
                    raise
                cause = f"{type(error.__cause__).__name__}: {error.__cause__}" if error.__cause__ else str(error)
                self.refused[name] = f"{hook} needs values or images; {cause.partition(chr(10))[0]}"
        return answers
