"""Bar 28: a spike of one step is skipped; what lasts leads back to before it began, at most three times."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bigrun import hookimpl
from bigrun.errors import ExitCode, TrainingHalted
from bigrun.testing.runner import Runner, RunResult

EVERY = {"log_every_steps": 10, "checkpoint_every_steps": 20, "max_steps": None}


def train(bigrunner: Runner, steps: int, companion: Any) -> RunResult:
    return bigrunner.run("anomaly-guard", steps=steps, companions=[companion], run={**EVERY, "max_steps": steps})


def answers(result: RunResult) -> list[tuple[int, str]]:
    """(step, action) of every spike of the loss."""
    events = [e for e in result.events if e.kind == "anomaly" and e.facts["anomaly"] == "loss-spike"]
    return [(e.step, e.facts["action"]) for e in events]


def rollbacks(result: RunResult) -> list[Any]:
    return [e.facts for e in result.events if e.kind == "rolled-back"]


class Spike:
    """A loss ten times too large in some steps."""

    def __init__(self, steps: range) -> None:
        self.steps = steps

    @hookimpl
    def loss_terms(self, step: int, outputs: Any) -> dict[str, torch.Tensor]:
        return {"spike": outputs.global_features.cls.float().sum() * 0 + (60.0 if step in self.steps else 0.0)}


def test_bar_28_a_spike_of_one_step_is_skipped(bigrunner: Runner) -> None:
    result = train(bigrunner, 80, Spike(range(61, 62)))
    result.assert_finished()
    assert answers(result) == [(61, "skip")]
    assert rollbacks(result) == []


@pytest.mark.slow
def test_bar_28_weights_that_were_damaged_are_left_behind_together_with_their_images(bigrunner: Runner) -> None:
    class Damage:
        """As a bad update does: the student is useless from one step on, until it is replaced."""

        is_done = False

        @hookimpl
        def before_step(self, run: Any, step: int) -> None:
            if step == 65 and not self.is_done:
                self.is_done = True
                with torch.no_grad():
                    run.objective.student.dino_head.last_layer.weight.mul_(2000)

    result = train(bigrunner, 104, Damage())
    result.assert_finished()
    assert answers(result) == [(65, "skip"), (66, "skip"), (67, "roll-back")]
    ((note),) = rollbacks(result)
    assert (note["from_step"], note["to_step"]) == (67, 60)
    assert note["position"] == 4 * 67  # the images of the seven steps behind the checkpoint are not seen again
    assert result.run is not None
    assert result.run.position == 4 * (67 + 44)
    assert max(result.losses[-5:]) < 10


@pytest.mark.slow
def test_bar_28_a_spike_of_40_steps_that_comes_again_ends_the_run_after_three_roll_backs(bigrunner: Runner) -> None:
    result = train(bigrunner, 120, Spike(range(61, 101)))
    assert isinstance(result.error, TrainingHalted)
    assert result.exit_code == ExitCode.HALTED
    assert answers(result) == [(61, "skip"), (62, "skip"), (63, "roll-back")] * 4
    assert [note["to_step"] for note in rollbacks(result)] == [60, 60, 60]
    assert "went back 3 times" in str(result.error)
    assert "bigrun replay" in str(result.error)  # what to try
    assert len(list((result.directory / "emergency").glob("step-*"))) == 1
