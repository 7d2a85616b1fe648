"""Bar 31: a run that hangs says where, ends with an exit code of its own, and continues; a long save is no hang."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import harm
import psutil
import pytest
from training import ENDLESS, Training, merge

from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import ExitCode

WATCHED: dict[str, Any] = {
    "run": {"background_checkpoints": False, "first_step_limit_seconds": 10.0},
    "plugins": {"watchdog": {"step_limit_seconds": 1.0, "grace_seconds": 0.2}},
}


def harmed(folder: Path, **tables: Any) -> Training:
    """A training in whose folder `--plugin harm:NAME` does harm."""
    shutil.copy(harm.__file__, folder)
    (folder / "harm").touch()
    return Training(folder, **merge(WATCHED, tables))


def newest_verified(training: Training) -> str:
    """The newest checkpoint's name; no checkpoint is damaged."""

    def fail(path: Path, problems: list[str]) -> None:
        raise AssertionError(f"{path}: {problems}")

    newest = CheckpointStore(training.run / "checkpoints").newest_verified(fail)
    assert newest is not None
    return newest.name


def continues(training: Training, *arguments: str, step: int = 2) -> list[dict[str, Any]]:
    """Take the harm away and give the same command: it finishes; returns what it says of the hang."""
    (training.folder / "harm").unlink()
    done = training(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"(resumed after step {step}, " in done.stdout
    assert newest_verified(training) == "step-00000006"
    return training.events("hang")


def test_bar_31_a_step_that_blocks_ends_with_stacks_and_continues(tmp_path: Path) -> None:
    training = harmed(tmp_path)
    done = training("--plugin", "harm:Blocks")
    assert done.returncode == ExitCode.HUNG, done.stderr
    (stacks,) = (training.run / "watchdog").glob("stacks-*-step-4.txt")
    text = stacks.read_text()
    assert "never_returns" in text
    assert "harm.py" in text
    assert "MainThread" in text
    assert "step 4 stood still for" in done.stderr
    assert stacks.name in done.stderr
    assert newest_verified(training) == "step-00000002"
    (event,) = continues(training, "--plugin", "harm:Blocks")
    assert event["facts"]["step"] == 4
    assert event["facts"]["activity"] == "step"
    assert event["facts"]["stacks"].endswith(stacks.name)
    assert [path.name for path in (training.run / "watchdog").iterdir()] == [stacks.name]


@pytest.mark.slow
def test_bar_31_a_worker_that_sleeps_for_ever_is_a_hang_in_the_data(tmp_path: Path) -> None:
    training = harmed(tmp_path, data={"workers": 1})
    with training.begun("--plugin", "harm:Sleepy") as process:
        workers = psutil.Process(process.pid).children(recursive=True)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == ExitCode.HUNG, output
    (stacks,) = (training.run / "watchdog").glob("stacks-*.txt")
    text = stacks.read_text()
    assert "next_samples" in text
    assert "waiting for images" in text
    hang = json.loads((training.run / "watchdog" / "hang.json").read_text())
    assert hang["activity"] == "data"
    below = text.partition("processes below")[2]
    assert sum(f"{worker.pid}  " in below for worker in workers) >= 2  # a worker and its server
    assert newest_verified(training).startswith("step-")
    assert not psutil.wait_procs(workers, timeout=10)[1], "processes outlived the run"


@pytest.mark.slow
def test_bar_31_native_code_that_keeps_the_interpreter_is_a_hang_too(tmp_path: Path) -> None:
    training = harmed(tmp_path)
    training.configure(**merge(WATCHED, {"run": {"first_step_limit_seconds": 2.0}}))
    done = training("--plugin", "harm:KeepsTheInterpreter")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "native code keeps the interpreter. It is killed" in done.stderr
    assert newest_verified(training) == "step-00000002"
    (event,) = continues(training, "--plugin", "harm:KeepsTheInterpreter")
    assert "reads_for_ever" in (training.folder / event["facts"]["stacks"]).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("background", [False, True], ids=["waiting for it", "on the way out"])
def test_bar_31_a_disk_that_is_gone_ends_the_run(tmp_path: Path, background: bool) -> None:
    """Also a run that ends with an error, and waits for the save that is still being written."""
    training = harmed(tmp_path, run={"background_checkpoints": background, "save_limit_seconds": 1.0})
    done = training("--plugin", "harm:DiskHangs")
    assert done.returncode == ExitCode.HUNG, done.stderr
    (stacks,) = (training.run / "watchdog").glob("stacks-*.txt")
    assert "in hangs" in stacks.read_text()
    assert ("step five cannot be taken" in done.stderr) == background
    assert newest_verified(training) == "step-00000002"
    (event,) = continues(training, "--plugin", "harm:DiskHangs", step=4)  # it was complete, and had no name yet
    assert event["facts"]["activity"] == "checkpoint"


@pytest.mark.slow
def test_bar_31_a_plugin_that_does_not_finish_is_a_hang(tmp_path: Path) -> None:
    training = harmed(tmp_path, run={"first_step_limit_seconds": 3.0})
    done = training("--plugin", "harm:DoesNotFinish")
    assert done.returncode == ExitCode.HUNG, done.stderr
    (stacks,) = (training.run / "watchdog").glob("stacks-*-step-6.txt")
    assert "never_returns" in stacks.read_text()
    (event,) = continues(training, "--plugin", "harm:DoesNotFinish", step=6)
    assert event["facts"]["activity"] == "end"


@pytest.mark.slow
def test_bar_31_a_run_that_fails_waits_for_its_save_for_longer_than_for_a_step(tmp_path: Path) -> None:
    training = harmed(tmp_path, run={"background_checkpoints": True})
    done = training("--plugin", "harm:DiskIsSlow")
    assert done.returncode == ExitCode.ERROR, done.stderr
    assert "step five cannot be taken" in done.stderr
    assert newest_verified(training) == "step-00000004"
    assert list((training.run / "watchdog").iterdir()) == []


@pytest.mark.slow
def test_bar_31_a_long_save_is_no_hang(tmp_path: Path) -> None:
    training = harmed(tmp_path, run={"max_steps": 2, "checkpoint_every_steps": 1})
    done = training("--plugin", "harm:SavesSlowly")
    assert done.returncode == 0, done.stderr
    assert len(list((training.run / "checkpoints").iterdir())) == 2
    assert list((training.run / "watchdog").iterdir()) == []


@pytest.mark.slow
def test_bar_31_a_process_that_somebody_stopped_has_not_hung(tmp_path: Path) -> None:
    limits = {"step_limit_seconds": 1.0, "grace_seconds": 0.0}
    training = Training(
        tmp_path, **merge(ENDLESS, {"run": {"first_step_limit_seconds": 1.0}, "plugins": {"watchdog": limits}})
    )
    with training.begun() as process:
        process.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        process.send_signal(signal.SIGCONT)
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert list((training.run / "watchdog").iterdir()) == []
