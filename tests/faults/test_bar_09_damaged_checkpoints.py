"""Bars 9, 10 and 11: a bit that flipped, a file that was cut, one that is gone. The run names the file, goes on from
the checkpoint before, and ends where it would have ended; when there is none it refuses, and never begins at step 0."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from acting import events, only_whole_checkpoints, same_state
from training import Training

from bigrun.errors import CheckpointError, ExitCode
from bigrun.testing.runner import Runner, RunResult

FILES = ["student.safetensors", "teacher.safetensors", "optimizer.safetensors", "state.json", "config.toml"]


def flip(path: Path) -> None:
    """One random bit."""
    data = bytearray(path.read_bytes())
    bit = random.SystemRandom().randrange(len(data) * 8)  # a run puts the global generators back
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """Three steps, with a checkpoint after each."""
    result = Runner(tmp_path_factory.mktemp("finished")).run()
    result.assert_finished()
    return result


def copied(finished: RunResult, folder: Path) -> Path:
    return Path(shutil.copytree(finished.directory, folder / "run"))


def newest(directory: Path, steps: int = 3) -> Path:
    return directory / "checkpoints" / f"step-{steps:08d}"


def check_passed_over(bigrunner: Runner, finished: RunResult, directory: Path, name: str) -> None:
    result = bigrunner.run(directory=directory)
    assert result.exit_code == 0, result.error
    (event,) = events(result, "checkpoint-refused")
    assert event.level == "error"
    assert f"step-00000003 is damaged and was passed over: {name}: " in event.message
    assert "after step 2" in events(result, "resumed")[0].message
    assert only_whole_checkpoints(directory) == [1, 2, 3], "the damaged one is replaced"
    assert same_state(result, finished, 3)


@pytest.mark.parametrize("name", FILES)
def test_bar_09_bit_flip_in_the_newest(bigrunner: Runner, finished: RunResult, tmp_path: Path, name: str) -> None:
    directory = copied(finished, tmp_path)
    flip(newest(directory) / name)
    check_passed_over(bigrunner, finished, directory, name)


@pytest.mark.parametrize("name", FILES)
def test_bar_10_truncated_newest(bigrunner: Runner, finished: RunResult, tmp_path: Path, name: str) -> None:
    directory = copied(finished, tmp_path)
    halve(newest(directory) / name)
    check_passed_over(bigrunner, finished, directory, name)


@pytest.mark.parametrize("harm", [halve, Path.unlink], ids=["half", "gone"])
def test_bar_10_manifest_cut_or_lost(
    bigrunner: Runner, finished: RunResult, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    directory = copied(finished, tmp_path)
    harm(newest(directory) / "MANIFEST.json")
    result = bigrunner.run(directory=directory)
    assert result.exit_code == 0, result.error
    assert "MANIFEST.json" in events(result, "checkpoint-refused")[0].message
    assert only_whole_checkpoints(directory) == [1, 2, 3]
    assert same_state(result, finished, 3)


def test_bar_09_two_damaged_ones_are_both_named(bigrunner: Runner, finished: RunResult, tmp_path: Path) -> None:
    directory = copied(finished, tmp_path)
    flip(newest(directory, 3) / "student.safetensors")
    halve(newest(directory, 2) / "optimizer.safetensors")
    result = bigrunner.run(directory=directory)
    result.assert_finished()
    named = [event.message for event in events(result, "checkpoint-refused")]
    assert len(named) == 2
    assert "step-00000003" in named[0]
    assert "step-00000002" in named[1]
    assert same_state(result, finished, 3)


@pytest.mark.parametrize("harm", [flip, halve, Path.unlink], ids=["flip", "half", "gone"])
def test_bar_11_all_damaged_is_a_refusal(
    bigrunner: Runner, finished: RunResult, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    directory = copied(finished, tmp_path)
    (directory / "metrics.jsonl").write_text('{"step": 1}\n{"step": 3}\n')
    for step, name in zip((1, 2, 3), FILES, strict=False):
        harm(newest(directory, step) / name)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    result = bigrunner.run("metrics-log", directory=directory)
    assert result.exit_code == ExitCode.ERROR
    assert isinstance(result.error, CheckpointError)
    message = str(result.error)
    assert "every checkpoint is damaged" in message
    for step, name in zip((1, 2, 3), FILES, strict=False):
        assert f"step-{step:08d}: {name}" in message
    assert "move the directory away to start again from step 0" in message
    assert "before_step" not in result.hooks.names()
    after = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    after.pop(directory / "events.jsonl")
    assert after == before


@pytest.mark.slow
def test_bar_09_the_command_says_so_and_exits_with_0(tmp_path: Path) -> None:
    training = Training(tmp_path)
    assert training().returncode == 0
    rows = training.metrics()
    flip(newest(training.run, 6) / "teacher.safetensors")
    done = training()
    assert done.returncode == 0, done.stderr
    assert (
        "error: runs/tiny/checkpoints/step-00000006 is damaged and was passed over: teacher.safetensors" in done.stdout
    )
    assert training.events("checkpoint-refused")
    assert [row["loss"] for row in training.metrics()] == [row["loss"] for row in rows]


@pytest.mark.slow
def test_bar_11_the_command_refuses(tmp_path: Path) -> None:
    training = Training(tmp_path)
    assert training().returncode == 0
    for step in (2, 4, 6):
        halve(newest(training.run, step) / "student.safetensors")
    done = training()
    assert done.returncode == 1
    assert "every checkpoint is damaged" in done.stderr
    assert "Traceback" not in done.stderr
    assert "step 1/" not in done.stdout
