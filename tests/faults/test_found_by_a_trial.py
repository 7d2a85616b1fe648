"""Found by a trial: checkpoints that are gone or litter beside them, a disk too small, a directory in use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from acting import events
from disks import small_disk
from training import Training

from bigrun.checkpoint import manifest
from bigrun.checkpoint.listing import look
from bigrun.errors import UsageError
from bigrun.lock import RunLock
from bigrun.replay.replay import replay
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


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini"])
def test_what_a_look_at_a_folder_leaves_is_no_damage(bigrunner: Runner, name: str) -> None:
    path = bigrunner.run(steps=2).directory / "checkpoints" / "step-00000002"
    (path / name).write_bytes(b"\0")
    assert manifest.verify(path) == []
    (path / "extra.txt").touch()
    (problem,) = manifest.verify(path)
    assert problem.startswith("extra.txt: is not in MANIFEST.json: remove it")
    assert next(entry for entry in look(path.parents[1]) if entry.step == 2).condition == "damaged"


@pytest.mark.slow
def test_a_supervisor_does_not_wait_to_take_over_the_run_of_another(tmp_path: Path) -> None:
    training = Training(tmp_path)
    assert training().returncode == 0
    lock = RunLock(training.run)
    lock.acquire()
    try:
        refused = training("--supervise", "--set", "run.max_steps=8")
    finally:
        lock.release()
    assert refused.returncode == 2
    assert "is in use by process" in refused.stderr
    assert "restart" not in refused.stderr


@pytest.mark.slow
def test_a_lock_is_looked_at_without_a_trace(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.check_free()
    assert list(tmp_path.iterdir()) == []
    lock.path.write_text('{"host": "elsewhere", "pid": 1, "started_utc": "then"}')
    before = lock.path.read_text()
    lock.check_free()  # nobody touches it: its owner is dead
    assert lock.path.read_text() == before


def test_a_step_behind_the_end_is_not_replayed(bigrunner: Runner) -> None:
    result = bigrunner.run("demo-photos", steps=2, dataset=False)
    with pytest.raises(UsageError, match=r"--step 9: the run has 2 steps"):
        replay(result.directory, 9)


def test_a_drill_in_a_file_is_refused(tmp_path: Path) -> None:
    training = Training(tmp_path)
    (tmp_path / "afile").touch()
    words = [sys.executable, "-m", "bigrun", "drill", "tiny.toml", "--dir", "afile"]
    done = subprocess.run(words, cwd=training.folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "--dir afile: no folder can be made there" in done.stderr
    assert "Traceback" not in done.stderr
