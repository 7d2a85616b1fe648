"""checkpoint-rotation: the newest K stay, and nothing else is touched."""

from __future__ import annotations

from typing import Any

from bigrun import hookimpl
from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import CheckpointError, ConfigError, ExitCode
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner

KEEP_TWO = {"keep_last": 2}


class TestContract(PluginContract):
    plugin = "checkpoint-rotation"
    config = KEEP_TWO


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
        "checkpoint-rotation", steps=7, config=KEEP_TWO, directory=first.directory, companions=[StopAtFive()]
    )
    assert second.exit_code == ExitCode.STOPPED
    assert second.checkpoints == [4, 5, 6, 7]


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
