"""Checkpoints that are not where they were: a run does not begin anew over what it has written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from acting import events
from disks import small_disk
from training import Training

from bigrun.saved import SAVED
from bigrun.testing.runner import Runner


def test_a_run_whose_checkpoints_are_gone_is_refused_and_left_alone(tmp_path: Path) -> None:
    training = Training(tmp_path, run={"max_steps": 4})
    assert training().returncode == 0
    assert json.loads((training.run / SAVED).read_text()) == {"step": 4}
    rows = (training.run / "metrics.jsonl").read_text()
    elsewhere = shutil.move(training.run / "checkpoints", tmp_path / "elsewhere")
    for prepare in (lambda: None, (training.run / "checkpoints").mkdir):
        prepare()
        refused = training()
        assert refused.returncode == 2
        assert "there is no checkpoint, but that of step 4 was saved there" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert (training.run / "metrics.jsonl").read_text() == rows
    (training.run / "checkpoints").rmdir()
    shutil.move(elsewhere, training.run / "checkpoints")
    assert "(resumed after step 4" in training("--set", "run.max_steps=5").stdout
    shutil.rmtree(training.run / "checkpoints")
    (training.run / SAVED).unlink()
    assert "(from step 0)" in training().stdout


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", megabytes=3) as path:
        yield path


def test_a_disk_without_room_for_one_more_keeps_two_from_the_start(bigrunner: Runner, disk: Path) -> None:
    """With six kept there would be no room for the seventh, and none would be saved any more."""
    result = bigrunner.run("checkpoint-rotation", config={"keep_last": 6}, directory=disk / "run", run={"max_steps": 9})
    result.assert_finished()
    assert result.checkpoints == [8, 9]
    assert events(result, "checkpoint-failed") == []
    (event,) = events(result, "checkpoints-fewer")
    assert event.level == "warning"
    assert "the newest 2 stay from now on" in event.message


def test_a_disk_that_turns_out_to_be_too_small_keeps_two_from_then_on(bigrunner: Runner, disk: Path) -> None:
    """There is room for four by the forecast, but the logs take some."""
    result = bigrunner.run("checkpoint-rotation", directory=disk / "run", run={"max_steps": 9})
    result.assert_finished()
    assert result.checkpoints == [8, 9]
    (failed,) = events(result, "checkpoint-failed")
    assert failed.facts["failed_step"] == 4
    (event,) = events(result, "checkpoints-fewer")
    assert event.step == 4
