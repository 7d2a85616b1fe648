"""What every plugin promises, as tests to inherit.

class TestMine(PluginContract):
    plugin = "my-plugin"
    config = {"weight": 0.5}
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch

from bigrun.errors import ConfigError, ExitCode, PluginError
from bigrun.hookspecs import hookimpl
from bigrun.plugins import Plugins, installed
from bigrun.run import Run
from bigrun.session import activate
from bigrun.testing.runner import Runner, RunResult

__all__ = ["PluginContract"]


class Breaker:
    """A companion that makes one hook of one plugin raise, the n-th time it is called."""

    def __init__(self, plugin: str, hook: str) -> None:
        self.plugin = plugin
        self.hook = hook

    @hookimpl(tryfirst=True)
    def configure_hooks(self, plugins: Plugins) -> None:
        broken = plugins.active[self.plugin]
        original = getattr(broken, self.hook)

        def fail(*args: Any) -> Any:
            raise RuntimeError("broken by the contract")

        fail.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
        fail.bigrun_impl = original.bigrun_impl  # type: ignore[attr-defined]
        setattr(broken, self.hook, fail)
        plugins.manager.unregister(name=self.plugin)
        plugins.activate(self.plugin, broken)


class PluginContract:
    """Inherit, and name the plugin; every test runs the tiny model on the CPU.

    Attributes:
        plugin: entry-point name.
        config: options of the plugin under test.
        tables: engine options by table, where the tiny preset does not suit.
        steps: length of the runs.
        dataset: False when the plugin itself brings the images.
    """

    plugin: ClassVar[str]
    config: ClassVar[Mapping[str, Any]] = {}
    tables: ClassVar[Mapping[str, Any]] = {}
    steps: ClassVar[int] = 4
    dataset: ClassVar[Any] = None

    def run(self, bigrunner: Runner, **options: Any) -> RunResult:
        return bigrunner.run(
            self.plugin,
            config=self.config,
            **({"steps": self.steps, "dataset": self.dataset} | dict(self.tables) | options),
        )

    def instance(self, bigrunner: Runner) -> Any:
        """A fresh, configured plugin."""
        return activate(bigrunner.document({self.plugin: dict(self.config)}))[1].active[self.plugin]

    def hooks_of(self, bigrunner: Runner) -> list[str]:
        plugins = Plugins()
        found = plugins._implementations(self.instance(bigrunner))
        return [options["specname"] or attribute for attribute, options in found]

    def test_loads_by_its_entry_point_name(self, bigrunner: Runner) -> None:
        assert self.plugin in installed()
        self.run(bigrunner).assert_finished()

    def test_its_kind_is_readable_without_importing_it(self, bigrunner: Runner) -> None:
        observer = getattr(self.instance(bigrunner), "observer", False)
        assert installed()[self.plugin].declared_kind() == ("observer" if observer else "critical")

    def test_rejects_an_unknown_option(self, bigrunner: Runner) -> None:
        result = bigrunner.run(self.plugin, config={**self.config, "no_such_option": 1})
        assert isinstance(result.error, ConfigError)
        assert not result.directory.exists()

    def test_hook_implementations_have_plain_parameters_and_known_names(self, bigrunner: Runner) -> None:
        plugin = self.instance(bigrunner)
        for hook in self.hooks_of(bigrunner):
            for parameter in inspect.signature(getattr(plugin, hook)).parameters.values():
                assert parameter.default is inspect.Parameter.empty, f"{hook}: {parameter.name} has a default"
                assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD, f"{hook}: {parameter.name}"

    def test_its_state_is_json_and_round_trips(self, bigrunner: Runner) -> None:
        result = self.run(bigrunner)
        assert result.run is not None
        plugin = result.run.plugins.active[self.plugin]
        if not hasattr(plugin, "state_dict"):
            return
        state = json.loads(json.dumps(plugin.state_dict(), allow_nan=False))
        other = self.instance(bigrunner)
        other.load_state_dict(state)
        assert json.loads(json.dumps(other.state_dict())) == state

    def test_resume_equals_the_straight_run_bit_for_bit(self, bigrunner: Runner) -> None:
        straight = self.run(bigrunner)
        for at_step in range(1, self.steps):
            if at_step not in straight.checkpoints:
                continue
            resumed = bigrunner.resume(straight, at_step)
            resumed.assert_finished()
            assert resumed.losses == straight.losses, f"resumed at step {at_step}"
            for name, tensor in straight.parameters.items():
                assert torch.equal(resumed.parameters[name], tensor), f"resumed at step {at_step}: {name}"

    def test_teardown_twice_is_harmless(self, bigrunner: Runner) -> None:
        result = self.run(bigrunner)
        assert isinstance(result.run, Run)
        assert result.run.plugins.notify("teardown", run=result.run) == []

    def test_a_failure_in_each_hook_ends_the_run_or_is_quarantined(self, bigrunner: Runner) -> None:
        observer = getattr(self.instance(bigrunner), "observer", False)
        called = set(self.run(bigrunner).hooks.of(self.plugin)) - {"configure_hooks", "teardown", "on_error"}
        for hook in sorted(called):
            result = self.run(bigrunner, companions=[Breaker(self.plugin, hook)])
            if observer:
                assert result.exit_code == ExitCode.QUARANTINED, f"{hook}: {result.error}"
                assert result.quarantined == [self.plugin]
            else:
                assert isinstance(result.error, PluginError), f"{hook}: {result.error}"
                assert result.error.hook == hook

    def test_an_observer_leaves_losses_bit_identical(self, bigrunner: Runner) -> None:
        if not getattr(self.instance(bigrunner), "observer", False):
            pytest.skip("a critical plugin may change training")
        without = bigrunner.run(steps=self.steps, **self.tables)
        watched = self.run(bigrunner)
        assert watched.losses == without.losses
        for name, tensor in without.parameters.items():
            assert torch.equal(watched.parameters[name], tensor), name
