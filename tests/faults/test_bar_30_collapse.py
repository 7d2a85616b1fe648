"""Bar 30: a collapse is seen within 200 steps, although the loss falls; the run ends, and never goes back blindly."""

from __future__ import annotations

from typing import Any

import pytest
from harm import ConstantFeatures

from bigrun import hookimpl
from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import ExitCode, TrainingHalted
from bigrun.testing.runner import Runner


class OneHotTeacher:
    """A centre that has run away: every target is the first prototype."""

    @hookimpl
    def before_step(self, run: Any) -> None:
        centre = run.objective.centring["classes"].centre
        centre.zero_()
        centre[0] = -100.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forced", "centring", "sign"),
    [
        (ConstantFeatures(), "sinkhorn", "class tokens of different images are almost the same"),
        (OneHotTeacher(), "softmax", "every target is a single prototype"),
    ],
    ids=["constant-features", "one-hot-teacher"],
)
def test_bar_30_a_forced_collapse_ends_the_run_within_200_steps(
    bigrunner: Runner, forced: Any, centring: str, sign: str
) -> None:
    """With the guard's own limits; the options have no warm-up that it would wait for."""
    result = bigrunner.run(
        "anomaly-guard",
        steps=300,
        companions=[forced],
        run={"log_every_steps": 10, "checkpoint_every_steps": 50, "max_steps": 300},
        objective={"centring": centring, "teacher_temperature_warmup_steps": 0},
    )
    assert isinstance(result.error, TrainingHalted)
    assert result.exit_code == ExitCode.HALTED
    events = [e for e in result.events if e.kind == "anomaly" and e.facts["anomaly"] == "collapse"]
    assert any(sign in event.message for event in events)
    assert {event.facts["action"] for event in events} == {"halt"}
    assert events[0].step <= 200
    assert result.losses[-1] < result.losses[0]
    assert [e for e in result.events if e.kind == "rolled-back"] == []
    assert len(CheckpointStore(result.directory / "emergency").verified_steps()) == 1
