"""anomaly-guard: its promises as a plugin, its options, and what a run does with it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from bigrun import hookimpl
from bigrun.anomaly import Anomaly
from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import ConfigError, ExitCode
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult

QUICK = {"settle_steps": 0, "hold_steps": 2, "wall_steps": 2, "stuck_steps": 1, "dead_module_steps": 2}


class TestContract(PluginContract):
    """With limits that every run exceeds, so that everything is said at least once."""

    plugin = "anomaly-guard"
    config: ClassVar = {
        **QUICK, "near_collapse": ["warn"], "collapse": ["warn"], "class_spread": [1.0, 0.99], "koleo": -9.0,
        "wall_entropy_fraction": 0.0, "remind_steps": 2,
    }  # fmt: skip
    tables: ClassVar = {"objective": {"koleo_weight": 0.1}}
    steps = 5


def anomalies(result: RunResult, kind: str) -> list[Any]:
    return [e for e in result.events if e.kind == "anomaly" and e.facts["anomaly"] == kind]


def state_of(result: RunResult) -> Any:
    store = CheckpointStore(result.directory / "checkpoints")
    return store.load_facts(store.path(store.steps()[-1]), "state")["plugins"]["anomaly-guard"]["state"]


class Spike:
    """Makes the loss of some steps ten times what it is."""

    def __init__(self, *steps: int, factor: float = 10.0) -> None:
        self.steps = steps
        self.factor = factor

    @hookimpl
    def loss_terms(self, run: Any, step: int, outputs: Any) -> dict[str, torch.Tensor]:
        tokens = outputs.global_features.cls
        loss = (tokens.float().square().mean() * 0 + 1) * 8.0 * (self.factor - 1)
        return {"spike": loss} if step in self.steps else {}


SHORT = {
    "run": {"log_every_steps": 5, "checkpoint_every_steps": 20, "max_steps": None, "background_checkpoints": False}
}


def short_run(bigrunner: Runner, steps: int, *companions: Any, **config: Any) -> RunResult:
    tables = {"run": {**SHORT["run"], "max_steps": steps}}
    return bigrunner.run("anomaly-guard", steps=steps, companions=companions, config=config, **tables)


# -- the options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "answers", "problem"),
    [
        ("collapse", ["skip"], "got 'skip' (it is judged after the update, when there is nothing to skip any more)"),
        ("collapse", ["warn", "roll-back"], "got 'roll-back' (the same options lead to the same collapse"),
        ("stuck", ["skip"], "expected a list of warn, save, roll-back, halt, got 'skip'"),
        ("dead_module", ["halt", "skip"], "got 'skip'"),
        ("nonfinite", ["warn"], "got 'warn' (such numbers never reach the weights: the step is skipped at least)"),
        ("loss_spike", [], "expected at least one of warn, skip, save, roll-back, halt, got []"),
        ("loss_spike", ["pray"], "got 'pray'"),
        ("minimum_steps", 300, "300 is more than window_steps = 200"),
        ("class_spread", [0.1, 0.3], "expected [a, b] with 1 >= a >= b >= 0, got [0.1, 0.3]"),
        ("patch_cosine", [0.9, 0.8], "expected [a, b] with a <= b, got [0.9, 0.8]"),
    ],
)
def test_a_ladder_that_cannot_be_followed_is_refused(bigrunner: Runner, name: str, answers: Any, problem: str) -> None:
    result = bigrunner.run("anomaly-guard", config={name: answers})
    assert isinstance(result.error, ConfigError)
    assert result.exit_code == ExitCode.USAGE
    ((path, text),) = result.error.problems
    assert path == f"plugins.anomaly-guard.{name}"
    assert problem in text


def test_the_header_says_from_when_on_collapse_is_judged(bigrunner: Runner) -> None:
    result = short_run(bigrunner, 5)
    assert result.run is not None
    (line,) = [line for line in result.run.header if line.startswith("guard")]
    assert "collapse (halt) from step 102, and this run ends at 5" in line


# -- what a run does ------------------------------------------------------------------------------------------


def test_one_spike_is_skipped_and_enters_no_window(bigrunner: Runner) -> None:
    result = short_run(bigrunner, 50, Spike(40), minimum_steps=20)
    result.assert_finished()
    (event,) = anomalies(result, "loss-spike")
    assert (event.step, event.facts["action"]) == (40, "skip")
    evidence = event.facts["evidence"]
    assert evidence["loss"] > 5 * evidence["median"]
    assert event.facts["causes"]
    assert event.facts["advice"]
    window = state_of(result)["spikes"]["loss"]
    assert len(window) == 49
    assert max(window) < 2 * min(window)


def test_the_third_spike_goes_back_before_the_first(bigrunner: Runner) -> None:
    class OnceInAWhile(Spike):
        """By the images, not by the step: they are not seen again."""

        @hookimpl
        def loss_terms(self, run: Any, step: int, outputs: Any) -> dict[str, torch.Tensor]:
            at = run.position // 4 + 1
            return super().loss_terms(run, at, outputs)

    result = short_run(bigrunner, 60, OnceInAWhile(45, 46, 47), minimum_steps=20)
    result.assert_finished()
    found = anomalies(result, "loss-spike")
    assert [(e.step, e.facts["action"]) for e in found[:3]] == [(45, "skip"), (46, "skip"), (47, "roll-back")]
    (back,) = [e for e in result.events if e.kind == "rolled-back"]
    assert back.facts["to_step"] == 40
    assert len(found) == 3
    assert "since step 45" in found[2].message


def test_what_others_report_is_left_to_others(bigrunner: Runner) -> None:
    class Reports:
        @hookimpl
        def before_update(self, run: Any, step: int) -> None:
            if step == 2:
                run.report_anomaly(Anomaly("of-mine", step, "mine"))

    result = short_run(bigrunner, 3, Reports(), nonfinite=["halt"], loss_spike=["halt"])
    result.assert_finished()
    (event,) = anomalies(result, "of-mine")
    assert event.facts["action"] == "skip"


def test_windows_survive_a_resume(bigrunner: Runner) -> None:
    first = short_run(bigrunner, 40, minimum_steps=20)
    first.assert_finished()
    before = state_of(first)
    assert len(before["spikes"]["loss"]) == len(before["spikes"]["grad_norm"]) == 40
    document = {"run": {**SHORT["run"], "max_steps": 45}}
    second = bigrunner.run(
        "anomaly-guard", steps=45, companions=[Spike(42)], config={"minimum_steps": 20},
        directory=first.directory, **document,
    )  # fmt: skip
    second.assert_finished()
    assert [e.step for e in anomalies(second, "loss-spike")] == [42]
    assert state_of(second)["spikes"]["loss"][:40] == before["spikes"]["loss"]


def test_a_module_without_a_gradient_is_found(bigrunner: Runner) -> None:
    class Detach:
        @hookimpl
        def after_backward(self, run: Any, step: int) -> None:
            if step > 5:
                for parameter in run.objective.student.ibot_head.parameters():
                    parameter.grad = torch.zeros_like(parameter)

    result = short_run(bigrunner, 30, Detach(), dead_module_steps=10)  # the last warm-up ends with step 6
    result.assert_finished()
    (event,) = anomalies(result, "dead-module")
    assert (event.step, event.facts["action"]) == (17, "warn")
    assert "ibot_head does not learn: its gradient norm is 0, since step 7" in event.message
