"""Bar 16 to 18: whatever asks a run to stop, it ends its step, saves once and says so; and then it continues."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from training import ENDLESS, Training


@pytest.mark.parametrize(
    "number", [signal.SIGUSR1, pytest.param(signal.SIGUSR2, marks=pytest.mark.slow)], ids=lambda number: number.name
)
def test_bar_18_the_signals_of_a_scheduler_stop_a_run(tmp_path: Path, number: signal.Signals) -> None:
    training = Training(tmp_path, **ENDLESS)
    with training.begun() as process:
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopping after this step: {number.name}" in output
    assert len(list((training.run / "checkpoints").iterdir())) == 1


@pytest.mark.slow
def test_bar_17_signals_again_and_again_save_once_and_break_nothing(tmp_path: Path) -> None:
    training = Training(tmp_path, **ENDLESS)
    with training.begun() as process:
        for _ in range(200):
            process.send_signal(signal.SIGTERM)
            if process.poll() is not None:
                break
        process.communicate(timeout=60)
    assert process.returncode == 143
    assert len(training.events("checkpoint")) == 1
    (checkpoint,) = (training.run / "checkpoints").iterdir()
    last = training.metrics()[-1]["step"]
    assert checkpoint.name == f"step-{last:08d}"
    training.configure(run={"max_steps": last + 1})
    done = training()
    assert done.returncode == 0, done.stderr
    assert f"(resumed after step {last}, " in done.stdout


def test_a_time_limit_ends_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    training = Training(tmp_path, **ENDLESS)
    done = training("--max-hours", "0.0005")
    assert done.returncode == 3, done.stderr
    assert "run.max_hours = 0.0005 are over" in done.stdout
    (checkpoint,) = (training.run / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{training.metrics()[-1]['step']:08d}"


def test_a_time_limit_that_is_none_is_refused(tmp_path: Path) -> None:
    done = Training(tmp_path)("--max-hours", "0")
    assert done.returncode == 2
    assert "run.max_hours: expected more than 0" in done.stderr
