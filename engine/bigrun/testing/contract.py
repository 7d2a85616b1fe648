"""What every plugin promises, as tests to inherit.

class TestMine(PluginContract):
    plugin = "my-plugin"
    config = {"weight": 0.5}
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from bigrun.activation import activate
from bigrun.check import check_preset
from bigrun.checkpoint.store import CheckpointStore
from bigrun.entry_points import installed, load_classes
from bigrun.errors import ConfigError, ExitCode, PluginError, TrainingHalted
from bigrun.hookspecs import Hooks
from bigrun.plugins import Plugins
from bigrun.testing.agreement import check_two_processes
from bigrun.testing.provoker import Provoker
from bigrun.testing.runner import Runner, RunResult

__all__ = ["PluginContract"]


class PluginContract:
    """Inherit, and name the plugin; every test runs the tiny model on the CPU.

    Attributes:
        plugin: entry-point name.
        config: options of the plugin under test.
        tables: engine options by table, where the tiny preset does not suit.
        steps: length of the runs; with `config`, everything that the plugin does should happen in so many.
        dataset: images for the runs instead of the synthetic ones; False when the plugin itself brings them.
        depends_on_clock: metrics, and keys of the plugin's state, that differ between two equal runs because they
            are measured times.
        suits_shards: False where the plugin refuses `parallel.strategy = "fsdp"`.
        depends_on_processes: keys of the plugin's state, at any depth, that may differ between a run in one process
            and the same run in two by more than rounding.
    """

    plugin: ClassVar[str]
    config: ClassVar[Mapping[str, Any]] = {}
    tables: ClassVar[Mapping[str, Any]] = {}
    steps: ClassVar[int] = 4
    dataset: ClassVar[Any] = None
    depends_on_clock: ClassVar[Collection[str]] = ()
    suits_shards: ClassVar[bool] = True
    depends_on_processes: ClassVar[Collection[str]] = ()
    _finished: ClassVar[RunResult | None] = None

    # -- what the tests use -----------------------------------------------------------------------------------

    def run(self, bigrunner: Runner, **options: Any) -> RunResult:
        """A run with the plugin; `options` as for `Runner.run`."""
        defaults = {"config": self.config, "steps": self.steps, "dataset": self.dataset}
        return bigrunner.run(self.plugin, **(defaults | dict(self.tables) | options))

    def finished(self, bigrunner: Runner) -> RunResult:
        """A run to its end that several tests look at, taken once for the class."""
        result: RunResult | None = type(self).__dict__.get("_finished")
        if result is None or not result.directory.is_dir():
            result = self.run(bigrunner)
            result.assert_finished()
            type(self)._finished = result
        return result

    def instance(self, bigrunner: Runner) -> Any:
        """A fresh, configured plugin."""
        document = bigrunner.document({self.plugin: dict(self.config)}, **self.tables)
        return activate(document)[1].active[self.plugin]

    def is_observer(self, bigrunner: Runner) -> bool:
        return bool(getattr(self.instance(bigrunner), "observer", False))

    def implementations(self, bigrunner: Runner) -> Iterator[tuple[str, str]]:
        """(attribute, hook) of everything that the plugin answers."""
        for attribute, options in Plugins().implementations(self.instance(bigrunner)):
            yield attribute, options["specname"] or attribute

    def saved_state(self, directory: Path) -> Any:
        """The plugin's state in the newest checkpoint of a run, without what depends on the clock."""
        store = CheckpointStore(directory / "checkpoints")
        state = store.load_facts(store.path(store.steps()[-1]), "state")["plugins"][self.plugin]["state"]
        return self._without_times(state) if isinstance(state, dict) else state

    def metrics(self, result: RunResult) -> list[dict[str, float]]:
        """Every flush, without what depends on the clock."""
        return [self._without_times(row) for row in result.metrics]

    def _without_times(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name not in self.depends_on_clock}

    # -- the promises -----------------------------------------------------------------------------------------

    def test_loads_by_its_entry_point_name(self, bigrunner: Runner) -> None:
        assert self.plugin in installed()
        assert self.finished(bigrunner).hooks.of(self.plugin), "it answered no hook"

    def test_its_kind_is_readable_without_importing_it(self, bigrunner: Runner) -> None:
        kind = "observer" if self.is_observer(bigrunner) else "critical"
        assert installed()[self.plugin].declared_kind() == kind, "write `observer = True` in the class itself"

    def test_its_header_is_there_under_bigrun_check(self, bigrunner: Runner) -> None:
        document = bigrunner.document({self.plugin: dict(self.config)}, steps=self.steps, **self.tables)
        assert [line for line in check_preset(document) if line.startswith("error ")] == []

    def test_rejects_an_unknown_option(self, bigrunner: Runner) -> None:
        result = self.run(bigrunner, config={**self.config, "no_such_option": 1})
        assert isinstance(result.error, ConfigError)
        assert [f"plugins.{self.plugin}.no_such_option", f"plugins.{self.plugin}"].count(result.error.problems[0][0])
        assert "no_such_option" in str(result.error)
        assert not result.directory.exists()

    def test_hook_implementations_have_plain_parameters(self, bigrunner: Runner) -> None:
        plugin = self.instance(bigrunner)
        for attribute, _ in self.implementations(bigrunner):
            for parameter in inspect.signature(getattr(plugin, attribute)).parameters.values():
                assert parameter.default is inspect.Parameter.empty, f"{attribute}: {parameter.name} has a default"
                assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD, f"{attribute}: {parameter.name}"

    def test_its_state_is_json_and_round_trips(self, bigrunner: Runner) -> None:
        result = self.finished(bigrunner)
        plugin = self.instance(bigrunner)
        assert hasattr(plugin, "state_dict") == hasattr(plugin, "load_state_dict"), "one without the other is useless"
        if not hasattr(plugin, "state_dict"):
            pytest.skip("it has no state")
        version = getattr(plugin, "state_version", 1)
        assert isinstance(version, int)
        assert version >= 1
        store = CheckpointStore(result.directory / "checkpoints")
        for step in store.steps():
            saved = store.load_facts(store.path(step), "state")["plugins"][self.plugin]["state"]
            plugin = self.instance(bigrunner)
            plugin.load_state_dict(saved)
            assert plugin.state_dict() == saved, f"the state of step {step} does not come back from load_state_dict"

    def test_resume_equals_the_straight_run_bit_for_bit(self, bigrunner: Runner) -> None:
        straight = self.finished(bigrunner)
        at_steps = [step for step in straight.checkpoints if step < self.steps]
        assert at_steps, "the run has no checkpoint to resume from"
        for at_step in at_steps:
            resumed = bigrunner.resume(straight, at_step)
            resumed.assert_finished()
            assert resumed.losses == straight.losses, f"resumed at step {at_step}"
            for name, tensor in straight.parameters.items():
                assert torch.equal(resumed.parameters[name], tensor), f"resumed at step {at_step}: {name}"
            assert self.metrics(resumed) == self.metrics(straight), f"resumed at step {at_step}"
            assert self.saved_state(resumed.directory) == self.saved_state(straight.directory), (
                f"resumed at step {at_step}"
            )

    def test_two_processes_are_one(self, bigrunner: Runner) -> None:
        """Also when one process goes on with what two have begun."""
        check_two_processes(self, bigrunner)

    def test_two_processes_with_shards_are_one(self, bigrunner: Runner) -> None:
        if not self.suits_shards:
            pytest.skip("it refuses shards")
        check_two_processes(self, bigrunner, "fsdp")

    def test_teardown_twice_is_harmless(self, bigrunner: Runner) -> None:
        result = self.finished(bigrunner)
        assert result.run is not None
        assert result.run.plugins.notify("teardown", run=result.run) == []
        assert result.quarantined == []

    def test_a_failure_in_each_hook_ends_the_run_or_is_quarantined(self, bigrunner: Runner) -> None:
        losses = self.finished(bigrunner).losses
        methods = [(attribute, hook) for attribute, hook in self.implementations(bigrunner) if hasattr(Hooks, hook)]
        if hasattr(self.instance(bigrunner), "state_dict"):
            methods.append(("state_dict", "state_dict"))
        for attribute, hook in methods:
            result = self.broken(bigrunner, attribute, hook)
            if hook in ("on_error", "teardown"):
                check_failure_is_an_event(result, self.plugin, hook)
            elif self.is_observer(bigrunner):
                check_quarantined(result, self.plugin, hook)
                assert result.losses == losses, f"its failure in {hook} changed the losses"
            else:
                check_ended(result, self.plugin, hook)

    def broken(self, bigrunner: Runner, attribute: str, hook: str) -> RunResult:
        """A run in which one method of the plugin raises."""
        cls = load_classes({self.plugin: {}}, [])[self.plugin]
        original = getattr(cls, attribute)
        calls = 0

        @functools.wraps(original)
        def fail(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if hook == "teardown":
                original(*args)  # or what it holds would outlive the test
            raise RuntimeError("broken by the contract")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cls, attribute, fail)
            result = self.run(bigrunner, companions=[Provoker(hook)])
        assert calls, f"{hook} was never called" + (" (dataset = False?)" if hook == "build_dataset" else "")
        return result

    def test_an_observer_leaves_losses_bit_identical(self, bigrunner: Runner) -> None:
        if not self.is_observer(bigrunner):
            pytest.skip("a critical plugin may change training")
        without = bigrunner.run(steps=self.steps, dataset=self.dataset, **self.tables)
        watched = self.finished(bigrunner)
        assert watched.losses == without.losses, "it changed the losses"
        for name, tensor in without.parameters.items():
            assert torch.equal(watched.parameters[name], tensor), f"it changed {name}"
        for row, plain in zip(watched.metrics, without.metrics, strict=True):
            assert {name: row.get(name) for name in plain} == plain, "it changed a metric"


def check_ended(result: RunResult, plugin: str, hook: str) -> None:
    """The run ended with the critical plugin's failure, and tore down what was there."""
    assert isinstance(result.error, PluginError), f"{hook}: {result.error}"
    assert result.error.plugin == plugin
    assert errors_of(result, plugin) == [], f"after its failure in {hook} it failed again"


def check_quarantined(result: RunResult, plugin: str, hook: str) -> None:
    """The run went on to its end without the observer, which released what it held."""
    assert result.exit_code == ExitCode.QUARANTINED, f"{hook}: {result.error}"
    assert result.quarantined == [plugin], hook
    assert result.run is not None
    assert result.run.finished, hook
    failures = 0 if hook == "configure_hooks" else 1  # nobody listens before there is a run
    assert len(errors_of(result, plugin)) == failures, f"after its failure in {hook} it failed again"


def check_failure_is_an_event(result: RunResult, plugin: str, hook: str) -> None:
    """The run ended as it would have."""
    if hook == "on_error":
        assert isinstance(result.error, TrainingHalted), f"{hook}: {result.error}"
    else:
        assert result.error is None
        assert result.run is not None
        assert result.run.finished
    assert len(errors_of(result, plugin)) == 1


def errors_of(result: RunResult, plugin: str) -> list[str]:
    """What the run's events say of a plugin's failures."""
    return [e.message for e in result.events if e.level == "error" and e.facts.get("plugin") == plugin]
