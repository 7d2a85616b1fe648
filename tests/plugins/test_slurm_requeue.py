"""slurm-requeue: once, when the time is up, after the checkpoint; bar 18."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from bigrun import hookimpl
from bigrun.errors import ExitCode
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult


class TestContract(PluginContract):
    plugin = "slurm-requeue"


class Strike:
    """Sends this process a signal after the second step."""

    def __init__(self, number: signal.Signals | None) -> None:
        self.number = number

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 2 and self.number is not None:
            os.kill(os.getpid(), self.number)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job, and a `scontrol` that writes down what it is told and which checkpoints there are by then."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" $(ls -d {tmp_path}/*/checkpoints/* | wc -l) >> {tmp_path}/said\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return tmp_path / "said"


def struck(bigrunner: Runner, number: signal.Signals | None, **run: Any) -> RunResult:
    tables = {"max_steps": 1000, "checkpoint_every_steps": 1000} | run
    return bigrunner.run("slurm-requeue", companions=[Strike(number)], run=tables)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2], ids=lambda number: number.name)
def test_bar_18_the_job_is_requeued_once_after_the_checkpoint(
    bigrunner: Runner, slurm: Path, number: signal.Signals
) -> None:
    result = struck(bigrunner, number)
    assert result.exit_code == 128 + number
    assert slurm.read_text() == "requeue 4711 1\n"
    (event,) = [e for e in result.events if e.kind == "requeued"]
    assert event.facts["job"] == "4711"


def test_a_time_limit_requeues_too(bigrunner: Runner, slurm: Path) -> None:
    result = struck(bigrunner, None, max_hours=1e-6)
    assert result.exit_code == ExitCode.STOPPED
    assert slurm.read_text() == "requeue 4711 1\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_who_cancels_a_job_does_not_get_it_back(bigrunner: Runner, slurm: Path, number: signal.Signals) -> None:
    assert struck(bigrunner, number).exit_code == 128 + number
    assert not slurm.exists()


def test_a_run_that_has_finished_is_not_requeued(bigrunner: Runner, slurm: Path) -> None:
    assert struck(bigrunner, signal.SIGUSR1, max_steps=2).exit_code == ExitCode.FINISHED
    assert not slurm.exists()


def test_outside_of_a_job_nothing_is_called(bigrunner: Runner, slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID")
    result = struck(bigrunner, signal.SIGUSR1)
    assert not slurm.exists()
    assert result.run is not None
    assert "slurm        not in a job" in result.run.header


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("#!/bin/sh\necho 'Requeue is disabled' >&2; exit 1\n", "Requeue is disabled"),
        ("#!/bin/sh\nexit 3\n", "exit code 3"),
        ("#!/nowhere/sh\n", "No such file"),
        (f"#!{sys.executable}\nimport time; time.sleep(60)\n", "timed out after 1"),
    ],
)
def test_what_goes_wrong_is_an_event_and_the_checkpoint_is_there(
    bigrunner: Runner, slurm: Path, script: str, why: str
) -> None:
    (slurm.parent / "bin" / "scontrol").write_text(script)
    result = bigrunner.run(
        "slurm-requeue", config={"timeout_seconds": 1.0}, companions=[Strike(signal.SIGUSR1)],
        run={"max_steps": 1000, "checkpoint_every_steps": 1000},
    )  # fmt: skip
    assert result.exit_code == 128 + signal.SIGUSR1
    (event,) = [e for e in result.events if e.kind == "not-requeued"]
    assert why in event.message
    assert event.message.endswith("submit the job again")
    assert len(result.checkpoints) == 1
