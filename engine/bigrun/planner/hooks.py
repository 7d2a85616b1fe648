"""The hooks of a run that is rehearsed: who builds answers, who trains takes part, who watches is not asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

from bigrun.errors import BigrunError, UsageError
from bigrun.markers import hookimpl

if TYPE_CHECKING:
    from bigrun.devices import DeviceFacts
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
STEPPING = frozenset(
    {
        "hardware_defaults",
        "segments_grow",
        "configure_model",
        "on_start",
        "rehearse",
        "before_step",
        "loss_terms",
        "after_update",
    }
)


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

    @hookspec
    def segments_grow(self, facts: DeviceFacts) -> bool | None:
        """Whether torch's allocator will be asked for segments that grow (expandable_segments), which waste less.

        When: in a rehearsal for a GPU, which may not be here: what `configure_runtime` would do on its machine.
        Called: once, of critical plugins.
        Result: None of a plugin that leaves the allocator alone; where all do, the environment says it.
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

    def __init__(self, plugins: Plugins, facts: DeviceFacts | None = None) -> None:
        """`facts`: of the device that is planned for, which stand for those of the device that is here."""
        self.plugins = plugins
        self.facts = facts
        self.has_no_choice: tuple[str, ...] = ()
        """Plugins that were not asked for `hardware_defaults`, since the device's memory is not known."""
        self.refused: dict[str, str] = {}
        """Why a plugin takes no part in the steps, by its name."""

    def __getattr__(self, hook: str) -> Callable[..., Any]:
        if hook == "configure_device":
            return self._stand_in
        if hook == "hardware_defaults" and self.facts is not None and not self.facts.total_bytes:
            implementations = self.plugins.hook.hardware_defaults.get_hookimpls()  # type: ignore[attr-defined]
            self.has_no_choice = tuple(implementation.plugin_name for implementation in implementations)
            return lambda **arguments: []
        if hook in BUILDING:
            return getattr(self.plugins.hook, hook)  # type: ignore[no-any-return]
        if hook in STEPPING:
            return lambda **arguments: self._ask_each(hook, arguments)
        return lambda **arguments: []

    def _stand_in(self, run: Run) -> None:
        """Nobody configures a device that is not here; whoever asks for it from now on hears of the planned one."""
        if self.facts is not None:
            run.facts = self.facts

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
                if isinstance(error, UsageError) or name not in self.plugins.active:  # or the engine's own
                    raise
                cause = f"{type(error.__cause__).__name__}: {error.__cause__}" if error.__cause__ else str(error)
                self.refused[name] = f"{hook} needs values or images; {cause.partition(chr(10))[0]}"
        return answers
