"""The order of things, and what a step may and may not change."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bigrun import hookimpl
from bigrun.anomaly import Anomaly
from bigrun.errors import ExitCode, PluginError, TrainingHalted
from bigrun.testing.runner import Runner

GOLDEN = Path(__file__).parent / "golden"


def expose(cls: type) -> str:
    """Make a local class loadable as `module:Class`."""
    setattr(sys.modules[__name__], cls.__name__, cls)
    return f"{__name__}:{cls.__name__}"


class SpoilStep:
    """Makes the loss of one step NaN."""

    step = 2

    @hookimpl
    def loss_terms(self, run: Any, step: int, outputs: Any) -> dict[str, torch.Tensor]:
        value = float("nan") if step == self.step else 0.0
        return {"spoiled": outputs.global_features.cls.sum() * 0 + value}


class StopAtOne:
    @hookimpl
    def after_backward(self, run: Any, step: int, micro: int) -> None:
        if step == 1 and micro == 0:
            run.request_stop("enough")


class Broken:
    @hookimpl
    def before_update(self, run: Any, step: int) -> None:
        raise RuntimeError("broken")


class BrokenObserver(Broken):
    observer = True


@pytest.mark.parametrize(
    ("name", "plugin", "steps", "accumulate", "code"),
    [
        ("accumulate_1", None, 2, 1, ExitCode.FINISHED),
        ("accumulate_2", None, 2, 2, ExitCode.FINISHED),
        ("skipped_step", SpoilStep, 3, 1, ExitCode.FINISHED),
        ("requested_stop", StopAtOne, 3, 2, ExitCode.STOPPED),
        ("plugin_error", Broken, 3, 1, ExitCode.ERROR),
        ("observer_failure", BrokenObserver, 2, 1, ExitCode.QUARANTINED),
    ],
)
def test_hook_order_is_golden(
    bigrunner: Runner, name: str, plugin: type | None, steps: int, accumulate: int, code: ExitCode
) -> None:
    plugins = [f"{__name__}:{plugin.__name__}"] if plugin else []
    result = bigrunner.run(
        *plugins, steps=steps, accumulate=accumulate, run={"checkpoint_every_steps": 2, "log_every_steps": 2}
    )
    assert result.exit_code == code
    golden = GOLDEN / f"hooks_{name}.txt"
    assert result.hooks.lines() == golden.read_text(encoding="utf-8").splitlines()


def test_t24_a_step_that_is_not_finite_changes_nothing_but_the_counter(bigrunner: Runner) -> None:
    states = {}

    class Watch:
        @hookimpl
        def before_step(self, run: Any, step: int) -> None:
            states[step] = {k: v.clone() for k, v in run.objective.state_dict().items()}

    result = bigrunner.run(f"{__name__}:SpoilStep", steps=3, companions=[Watch()])
    assert result.exit_code == ExitCode.FINISHED
    assert all(torch.equal(states[2][k], states[3][k]) for k in states[2])
    assert any(not torch.equal(states[1][k], states[2][k]) for k in states[1])
    assert [row["step"] for row in result.metrics if "loss" in row] == [1, 3]
    (event,) = [e for e in result.events if e.kind == "anomaly"]
    assert event.facts["action"] == "skip"
    assert event.facts["evidence"]["loss/spoiled"] == "nan"
    assert all(torch.isfinite(v).all() for v in result.parameters.values() if v.is_floating_point())


def test_t24_several_bad_steps_in_a_row_halt_the_run(bigrunner: Runner) -> None:
    class AllBad(SpoilStep):
        @hookimpl
        def loss_terms(self, run: Any, step: int, outputs: Any) -> dict[str, torch.Tensor]:
            return {"spoiled": outputs.global_features.cls.sum() * float("inf")}

    result = bigrunner.run(expose(AllBad), steps=9, run={"halt_after_skips": 3})
    assert isinstance(result.error, TrainingHalted)
    assert "halted at step 3" in str(result.error)


def test_a_reported_anomaly_prevents_the_update(bigrunner: Runner) -> None:
    class Guard:
        @hookimpl
        def before_update(self, run: Any, step: int) -> None:
            if step == 2:
                run.report_anomaly(Anomaly("spike", step, "the loss jumped"))

    calls = bigrunner.run(expose(Guard), steps=3).hooks.lines()
    assert "after_update step=2" not in calls
    assert "after_update step=3" in calls


def test_a_critical_failure_names_plugin_hook_and_step(bigrunner: Runner) -> None:
    result = bigrunner.run(f"{__name__}:Broken")
    assert isinstance(result.error, PluginError)
    said = str(result.error)
    assert said.startswith(
        f"{__name__}:Broken failed in before_update at step 1: RuntimeError: broken (test_loop.py, line "
    )


def test_schedules_and_steps_count_optimizer_steps(bigrunner: Runner) -> None:
    rates: dict[int, list[float]] = {}
    for accumulate in (1, 2, 4):
        result = bigrunner.run(steps=4, accumulate=accumulate, optimizer={"warmup_steps": 2})
        rates[accumulate] = [row["learning_rate"] for row in result.metrics]
        assert len(rates[accumulate]) == 4
    assert rates[1] == rates[2] == rates[4]


def test_runs_are_deterministic_and_seeded(bigrunner: Runner) -> None:
    first, second = bigrunner.run(), bigrunner.run()
    assert first.losses == second.losses
    assert bigrunner.run(run={"seed": 1}).losses != first.losses


def test_a_requested_checkpoint_is_saved(bigrunner: Runner) -> None:
    class Wish:
        @hookimpl
        def after_update(self, run: Any, step: int) -> None:
            if step == 2:
                run.request_checkpoint("because")

    result = bigrunner.run(expose(Wish), steps=5, run={"checkpoint_every_steps": 100})
    assert result.checkpoints == [2, 5]


class ExactTerm:
    """A loss term whose product is in fp32, of numbers that bf16 has not."""

    def __init__(self) -> None:
        self.factors = torch.full((4, 3), 1 + 2**-12)
        self.leaf = torch.ones(1, 4, requires_grad=True)

    @hookimpl
    def loss_terms(self, outputs: Any) -> dict[str, torch.Tensor]:
        self.leaf.grad = None
        with torch.autocast("cpu", enabled=False):
            return {"exact": (self.leaf @ self.factors).sum()}


def test_the_gradient_of_an_fp32_product_is_fp32_in_a_run_in_bf16(bigrunner: Runner) -> None:
    term = ExactTerm()
    bigrunner.run(steps=1, accumulate=1, companions=[term], hardware={"precision": "bf16"}).assert_finished()
    assert term.leaf.grad is not None
    assert torch.equal(term.leaf.grad, term.factors.sum(1)[None])
