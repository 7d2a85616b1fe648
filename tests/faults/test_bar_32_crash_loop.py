"""Bar 32: who supervises a run starts it again as long as that helps, and says so when it does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import harm
import pytest
from training import Training, read_lines

from bigrun.checkpoint import manifest
from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import ExitCode


def harmed(folder: Path, **tables: Any) -> Training:
    """A training in whose folder `--plugin harm:NAME` does harm; its saves are in time whatever the machine does."""
    folder.mkdir(exist_ok=True)
    shutil.copy(harm.__file__, folder)
    return Training(folder, run={"background_checkpoints": False, **tables})


def hashes(training: Training, step: int) -> dict[str, str]:
    """Of every tensor file of a checkpoint."""
    files = manifest.read(training.run / "checkpoints" / f"step-{step:08d}").files
    return {name: record.sha256 for name, record in files.items() if name.endswith(".safetensors")}


def check_gave_up(training: Training, restarts: int, *arguments: str) -> None:
    done = training("--supervise", "--plugin", "harm:FailsAtFour", *arguments)
    assert done.returncode == ExitCode.NO_PROGRESS, done.stderr
    assert "Traceback" not in done.stderr
    starts = [row for row in read_lines(training.run / "supervisor" / "log.jsonl") if row["what"] == "ended"]
    assert [(row["start"], row["returncode"], row["step"], row["newest"]) for row in starts] == [
        (number, 1, 3, 2) for number in range(1, restarts + 2)
    ]
    (report,) = (training.run / "supervisor").glob("report-*.txt")
    text = report.read_text()
    assert text.count("step four cannot be taken") == restarts + 1
    assert f"no newer checkpoint after {restarts} restart" in text
    assert "checkpoints/step-00000002" in text
    assert "exit code 1 (an error) after step 3; newest checkpoint: step 2" in text
    assert str(report.relative_to(training.folder)) in done.stderr
    told = [(event["facts"]["start"], event["facts"]["before"]) for event in training.events("restarted")]
    assert told == [(number, "exit code 1 (an error)") for number in range(2, restarts + 2)]


@pytest.mark.slow
def test_bar_32_a_step_that_always_fails_ends_with_a_report(tmp_path: Path) -> None:
    check_gave_up(harmed(tmp_path), 1, "--max-restarts", "1")


@pytest.mark.slow
def test_bar_32_by_default_three_restarts_may_be_in_vain(tmp_path: Path) -> None:
    check_gave_up(harmed(tmp_path), 3)


@pytest.mark.slow
def test_bar_32_a_run_that_is_killed_again_and_again_equals_a_straight_one(tmp_path: Path) -> None:
    """Twice is more than one restart in vain, but each brings a checkpoint."""
    straight, killed = harmed(tmp_path / "straight"), harmed(tmp_path / "killed")
    assert straight().returncode == 0
    done = killed("--supervise", "--max-restarts", "1", "--plugin", "harm:DiesAtItsThird")
    assert done.returncode == 0, done.stderr
    assert "killed by signal 9 (SIGKILL, often: out of memory) after step 2; newest checkpoint: step 2" in done.stderr
    assert "killed by signal 9 (SIGKILL, often: out of memory) after step 4; newest checkpoint: step 4" in done.stderr
    assert "finished: 6 optimizer steps" in done.stdout
    assert hashes(killed, 6) == hashes(straight, 6)
    assert [row["loss"] for row in killed.metrics()] == [row["loss"] for row in straight.metrics()]


def ends(training: Training) -> list[tuple[int, int | None]]:
    """(return code, step) of every start."""
    rows = read_lines(training.run / "supervisor" / "log.jsonl")
    return [(row["returncode"], row["step"]) for row in rows if row["what"] == "ended"]


@pytest.mark.slow
def test_bar_32_images_that_are_away_for_a_moment_do_not_end_a_run(tmp_path: Path) -> None:
    """The process after the crash finds none, which it refuses as it would a wrong path."""
    training = harmed(tmp_path)
    done = training("--supervise", "--max-restarts", "2", "--plugin", "harm:ImagesGoAway")
    assert done.returncode == 0, done.stderr
    assert ends(training) == [(-9, 2), (ExitCode.USAGE, None), (0, 6)]
    assert "exit code 2 (refused) before training began; newest checkpoint: step 2; restart 2 of 2" in done.stderr


@pytest.mark.slow
def test_bar_32_what_a_restart_is_refused_for_ever_ends_with_a_report(tmp_path: Path) -> None:
    training = harmed(tmp_path)
    done = training("--supervise", "--max-restarts", "1", "--plugin", "harm:LosesItsImages")
    assert done.returncode == ExitCode.NO_PROGRESS, done.stderr
    assert ends(training) == [(-9, 2), (ExitCode.USAGE, None)]
    assert "correct it, or bring back what is missing" in done.stderr


@pytest.mark.slow
def test_bar_32_a_mistake_in_the_command_that_continues_a_run_stays_a_refusal(tmp_path: Path) -> None:
    training = harmed(tmp_path)
    assert training().returncode == 0
    done = training("--supervise", "--max-restarts", "1", "--set", "run.max_steps=8", "--set", "model.dept=3")
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert ends(training) == [(ExitCode.USAGE, None)] * 2
    assert list((training.run / "supervisor").glob("report-*")) == []


@pytest.mark.slow
def test_bar_32_a_driver_that_crashed_does_not_move_a_run_to_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
    training = harmed(tmp_path)
    assert training("--set", "run.max_steps=4").returncode == 0
    store = CheckpointStore(training.run / "checkpoints")
    state = store.load_facts(store.path(4), "state")
    store.amend(4, {"state": state | {"machine": state["machine"] | {"backend": "CUDA"}}})
    words = ("--supervise", "--max-restarts", "1", "--plugin", "harm:DiesBeforeItIsBuilt")
    done = training(*words, "--set", "hardware.device=auto")
    assert done.returncode == ExitCode.NO_PROGRESS, done.stderr
    assert ends(training) == [(-9, None), (ExitCode.ERROR, None)]
    report = next((training.run / "supervisor").glob("report-*.txt")).read_text()
    assert "the run was on a GPU (CUDA), and torch sees none any more" in report
    (tmp_path / "died").unlink()
    done = training(*words, "--set", "hardware.device=cpu")
    assert done.returncode == 0, done.stderr
    assert training.events("machine-changed")


@pytest.mark.slow
def test_bar_32_a_run_that_hangs_is_started_again(tmp_path: Path) -> None:
    training = harmed(tmp_path)
    (tmp_path / "harm").touch()
    limits = {"step_limit_seconds": 1.0, "grace_seconds": 0.2}
    training.configure(
        run={"background_checkpoints": False, "first_step_limit_seconds": 10.0}, plugins={"watchdog": limits}
    )
    done = training("--supervise", "--max-restarts", "1", "--plugin", "harm:Blocks")
    assert done.returncode == ExitCode.NO_PROGRESS, done.stderr
    report = next((training.run / "supervisor").glob("report-*.txt")).read_text()
    assert report.count("exit code 6 (it hung) after step 3") == 2
    assert "stacks of all threads: runs/tiny/watchdog/stacks-" in report
    assert len(training.events("hang")) == 1
    assert json.loads((training.run / "watchdog" / "hang.json").read_text())["step"] == 4
