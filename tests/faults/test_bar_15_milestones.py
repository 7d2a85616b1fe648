"""Bar 15: milestones are there after 20 rotations and a restart."""

from __future__ import annotations

from typing import Any

from bigrun.checkpoint import manifest
from bigrun.checkpoint.store import CheckpointStore
from bigrun.testing.runner import Runner, RunResult

CONFIG = {"keep_last": 2, "milestones_every_steps": 6, "milestone_steps": [3, 11]}


def removed(result: RunResult) -> list[int]:
    return [event.facts["removed_step"] for event in result.events if event.kind == "checkpoint-removed"]


def rotate(bigrunner: Runner, steps: int, config: dict[str, Any], **options: Any) -> RunResult:
    result = bigrunner.run("checkpoint-rotation", steps=steps, config=config, **options)
    result.assert_finished()
    return result


def test_bar_15_milestones_stay_for_twenty_rotations_and_a_restart(bigrunner: Runner) -> None:
    first = rotate(bigrunner, 13, CONFIG)
    assert first.checkpoints == [3, 6, 11, 12, 13]
    second = rotate(bigrunner, 28, CONFIG, directory=first.directory)
    assert second.checkpoints == [3, 6, 11, 12, 18, 24, 27, 28]
    gone = removed(first) + removed(second)
    assert len(gone) == 28 - 8 == 20
    assert gone == sorted(set(gone))
    store = CheckpointStore(first.directory / "checkpoints")
    assert all(manifest.verify(store.path(step)) == [] for step in store.steps())


def test_bar_15_a_milestone_that_no_cadence_would_save_is_saved(bigrunner: Runner) -> None:
    result = rotate(bigrunner, 14, CONFIG, run={"checkpoint_every_steps": 4})
    assert result.checkpoints == [3, 6, 11, 12, 14]


def test_bar_15_whoever_wishes_other_milestones_gives_the_old_ones_up(bigrunner: Runner) -> None:
    """A milestone is one by the configuration of the day: nothing is marked in the checkpoint."""
    first = rotate(bigrunner, 7, CONFIG)
    assert first.checkpoints == [3, 6, 7]
    second = rotate(bigrunner, 8, {"keep_last": 2, "milestone_steps": [6]}, directory=first.directory)
    assert second.checkpoints == [6, 7, 8]
