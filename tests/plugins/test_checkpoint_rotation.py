"""checkpoint-rotation: the newest K stay and whatever else is wished; nothing else is touched."""

from __future__ import annotations

import shutil
from typing import Any, ClassVar

import pytest

from bigrun import hookimpl
from bigrun.anomaly import Action, Anomaly
from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import CheckpointError, ConfigError, ExitCode
from bigrun.run import Run
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult

KEEP_TWO = {"keep_last": 2}


class TestContract(PluginContract):
    plugin = "checkpoint-rotation"
    config: ClassVar = {**KEEP_TWO, "milestones_every_steps": 3, "best_by": "loss"}


def test_the_newest_stay(bigrunner: Runner) -> None:
    result = bigrunner.run("checkpoint-rotation", steps=6, config={"keep_last": 3})
    result.assert_finished()
    assert result.checkpoints == [4, 5, 6]
    removed = [event.facts["removed_step"] for event in result.events if event.kind == "checkpoint-removed"]
    assert removed == [1, 2, 3]


def test_at_every_moment_as_many_are_complete(bigrunner: Runner) -> None:
    held: list[list[int]] = []

    class Look:
        @hookimpl(tryfirst=True)
        def on_checkpoint(self, run: Any) -> None:
            held.append(run.checkpoints.steps())

        @hookimpl
        def on_event(self, run: Any, event: Any) -> None:
            held.append(run.checkpoints.steps())

    bigrunner.run("checkpoint-rotation", steps=4, config=KEEP_TWO, companions=[Look()]).assert_finished()
    assert held == [[1], [1, 2], [1, 2, 3], [2, 3], [2, 3, 4], [3, 4]]


def test_rotation_goes_on_after_a_resume(bigrunner: Runner) -> None:
    first = bigrunner.run("checkpoint-rotation", steps=3, config=KEEP_TWO)
    assert first.checkpoints == [2, 3]
    second = bigrunner.run("checkpoint-rotation", steps=5, config=KEEP_TWO, directory=first.directory)
    second.assert_finished()
    assert second.checkpoints == [4, 5]


def test_checkpoints_of_a_run_without_rotation_are_cleared_too(bigrunner: Runner) -> None:
    first = bigrunner.run(steps=4)
    second = bigrunner.run("checkpoint-rotation", steps=5, config=KEEP_TWO, directory=first.directory)
    assert second.checkpoints == [4, 5]


def test_newer_checkpoints_are_not_touched(bigrunner: Runner) -> None:
    class StopAtFive:
        @hookimpl
        def after_step(self, run: Any, step: int) -> None:
            if step == 5:
                run.request_stop("test")

    first = bigrunner.run(steps=7)
    for step in (5, 6, 7):  # damaged: the run continues from step 4
        first.damage(step, "student")
    second = bigrunner.run(
        "checkpoint-rotation",
        steps=7,
        config=KEEP_TWO,
        directory=first.directory,
        companions=[StopAtFive()],
        run={"background_checkpoints": False},  # the older ones are read before rotation judges
    )
    assert second.exit_code == ExitCode.STOPPED
    assert second.checkpoints == [4, 5, 6, 7]


def test_newer_ones_that_somebody_brings_push_none_out(bigrunner: Runner) -> None:
    other = bigrunner.run(steps=9)

    class Bring:
        @hookimpl
        def before_step(self, run: Run, step: int) -> None:
            if step == 2:
                for name in ("step-00000008", "step-00000009"):
                    shutil.copytree(other.directory / "checkpoints" / name, run.checkpoints.directory / name)

    result = bigrunner.run("checkpoint-rotation", steps=4, config=KEEP_TWO, companions=[Bring()])
    result.assert_finished()
    assert result.checkpoints == [3, 4, 8, 9]


def test_what_is_no_checkpoint_is_left_alone(bigrunner: Runner) -> None:
    first = bigrunner.run(steps=1)
    folder = first.directory / "checkpoints"
    folders = [folder / "best", folder / "step-1", folder / "step-00000001-copy", folder / ".hidden"]
    for path in folders:
        path.mkdir()
    foreign = [folder / "notes.txt", *(path / "kept.txt" for path in folders)]
    for path in foreign:
        path.write_text("mine", encoding="utf-8")
    second = bigrunner.run("checkpoint-rotation", steps=5, config=KEEP_TWO, directory=first.directory)
    assert second.checkpoints == [4, 5]
    assert all(path.read_text(encoding="utf-8") == "mine" for path in foreign)


def test_one_that_cannot_be_removed_is_tried_again(bigrunner: Runner) -> None:
    class BusyOnce(CheckpointStore):
        """The disk refuses the first removal."""

        refused = False

        def delete(self, step: int) -> None:
            if not self.refused:
                self.refused = True
                raise CheckpointError(f"{self.path(step)}: not deleted: Device or resource busy")
            super().delete(step)

    class Busy:
        @hookimpl
        def on_start(self, run: Any) -> None:
            run.checkpoints = BusyOnce(run.checkpoints.directory)

    result = bigrunner.run("checkpoint-rotation", steps=5, config=KEEP_TWO, companions=[Busy()])
    result.assert_finished()
    assert result.checkpoints == [4, 5]
    (event,) = [event for event in result.events if event.level == "warning"]
    assert (event.kind, event.step, event.facts["step_to_remove"]) == ("checkpoint-not-removed", 3, 1)


def test_a_single_checkpoint_is_too_few(bigrunner: Runner) -> None:
    result = bigrunner.run("checkpoint-rotation", config={"keep_last": 1})
    assert isinstance(result.error, ConfigError)
    assert "plugins.checkpoint-rotation.keep_last: expected at least 2, got 1" in str(result.error)


# -- what else stays --------------------------------------------------------------------------------------------------


def removed(result: RunResult) -> list[int]:
    return [event.facts["removed_step"] for event in result.events if event.kind == "checkpoint-removed"]


class Report:
    """Reports an anomaly at some steps, and lets the update be made."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    @hookimpl
    def before_update(self, run: Run, step: int) -> None:
        if step in self.steps:
            run.report_anomaly(Anomaly("test", step, "something is strange"))

    @hookimpl
    def on_anomaly(self) -> Action:
        return Action.WARN


class Score:
    """A metric with given values, by step."""

    def __init__(self, *values: float | None) -> None:
        self.values = values

    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        value = self.values[step - 1]
        if value is not None:
            run.metrics.record("score", value)


def test_milestones_are_made_and_stay(bigrunner: Runner) -> None:
    config = {**KEEP_TWO, "milestones_every_steps": 4, "milestone_steps": [3]}
    result = bigrunner.run("checkpoint-rotation", steps=12, config=config, run={"checkpoint_every_steps": 5})
    result.assert_finished()
    assert result.checkpoints == [3, 4, 8, 10, 12]
    assert removed(result) == [5]


def test_the_last_healthy_one_stays(bigrunner: Runner) -> None:
    result = bigrunner.run("checkpoint-rotation", steps=7, config=KEEP_TWO, companions=[Report(4, 5, 6, 7)])
    result.assert_finished()
    assert result.checkpoints == [3, 6, 7]
    again = bigrunner.run("checkpoint-rotation", steps=8, config=KEEP_TWO, directory=result.directory)
    assert again.checkpoints == [7, 8]  # 8 is healthy: 3 has a successor


def test_healthy_ones_are_like_others_when_nobody_cares(bigrunner: Runner) -> None:
    config = {**KEEP_TWO, "keep_healthy": False}
    result = bigrunner.run("checkpoint-rotation", steps=5, config=config, companions=[Report(3, 4, 5)])
    assert result.checkpoints == [4, 5]


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({"best": "max"}, [2, 5, 6]),
        ({}, [1, 5, 6]),
        ({"keep_best": 3}, [1, 3, 4, 5, 6]),
    ],
)
def test_the_best_stay(bigrunner: Runner, config: dict[str, Any], kept: list[int]) -> None:
    scores = Score(0.1, 0.9, 0.2, 0.3, 0.8, 0.4)
    config = {**KEEP_TWO, "best_by": "score", **config}
    result = bigrunner.run("checkpoint-rotation", steps=6, config=config, companions=[scores])
    result.assert_finished()
    assert result.checkpoints == kept
    assert not [event for event in result.events if event.kind == "checkpoint-metric-missing"]


def test_one_without_the_metric_is_no_candidate(bigrunner: Runner) -> None:
    config = {**KEEP_TWO, "best_by": "score"}
    result = bigrunner.run("checkpoint-rotation", steps=6, config=config, companions=[Score(*[None, 0.5] * 3)])
    assert result.checkpoints == [2, 5, 6]
    (event,) = [event for event in result.events if event.kind == "checkpoint-metric-missing"]
    assert event.step == 1


def test_a_metric_that_is_never_logged_is_said_once(bigrunner: Runner) -> None:
    result = bigrunner.run("checkpoint-rotation", steps=4, config={**KEEP_TWO, "best_by": "loss/dino_globl"})
    result.assert_finished()
    assert result.checkpoints == [3, 4]
    (event,) = [event for event in result.events if event.level == "warning"]
    assert event.kind == "checkpoint-metric-missing"
    assert event.message.endswith("did you mean 'loss/dino_global'?")


def test_damaged_ones_do_not_count_and_stay(bigrunner: Runner) -> None:
    first = bigrunner.run(steps=5)
    for step in (2, 4):
        first.damage(step, "teacher")
    second = bigrunner.run("checkpoint-rotation", steps=6, config=KEEP_TWO, directory=first.directory)
    assert second.checkpoints == [2, 4, 5, 6]
    assert removed(second) == [1, 3]


def test_checkpoints_in_the_background_are_rotated_too(bigrunner: Runner) -> None:
    result = bigrunner.run(
        "checkpoint-rotation",
        steps=6,
        config={**KEEP_TWO, "milestone_steps": [2]},
        run={"background_checkpoints": True},
    )
    result.assert_finished()
    assert result.checkpoints == [2, 5, 6]


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"milestones_every_steps": 0}, "milestones_every_steps: expected at least 1, got 0"),
        ({"milestone_steps": [5, 5]}, "milestone_steps: expected steps from 1, in ascending order, got [5, 5]"),
        ({"milestone_steps": [0, 5]}, "milestone_steps: expected steps from 1, in ascending order, got [0, 5]"),
        ({"best": "max"}, "best: has no effect because best_by names no metric"),
        ({"keep_best": 2}, "keep_best: has no effect because best_by names no metric"),
        ({"best_by": "loss", "best": "large"}, "best: expected 'min' or 'max', got 'large'"),
        ({"best_by": "loss", "keep_best": 0}, "keep_best: expected at least 1, got 0"),
    ],
)
def test_wishes_without_sense_are_refused(bigrunner: Runner, config: dict[str, Any], problem: str) -> None:
    result = bigrunner.run("checkpoint-rotation", config=config)
    assert isinstance(result.error, ConfigError)
    assert f"plugins.checkpoint-rotation.{problem}" in str(result.error)
