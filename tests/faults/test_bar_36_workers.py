"""Bar 36: a process that decodes and is killed, or does not move, or finds /dev/shm full, costs a restart and no
sample; three times without progress, and the run stops with the likely cause."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from spoiled import copy_beside
from training import ENDLESS, Training, merge
from typed import Typed

from bigrun.errors import ExitCode

STEPS = 60
LONG: dict[str, Any] = {"run": {"max_steps": STEPS, "checkpoint_every_steps": 20}}


def losses(training: Training) -> list[tuple[int, str]]:
    return [(row["step"], row["loss"].hex()) for row in training.metrics()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        typed = Typed(folder, patch, **LONG)
        done = typed.train()
    assert done.code == 0, done.said
    assert len(losses(typed)) == STEPS
    return losses(typed)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Those that decode: the fork server's children."""
    (server,) = [child for child in psutil.Process(process.pid).children() if child.children()]
    return server.children()


def disturbed(training: Training, number: signal.Signals) -> dict[str, Any]:
    """A run of which one worker gets a signal, to its end; returns the event."""
    with training.begun(step=3) as process:
        workers = workers_of(process)
        assert len(workers) == 2
        workers[0].send_signal(number)
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 0, output
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []
    (event,) = training.events("worker-restarted")
    assert event["level"] == "warning"
    assert event["facts"]["strike"] == 1
    assert event["facts"]["position"] % 4 == 0
    assert f"again at position {event['facts']['position']}" in event["message"]
    return event


@pytest.mark.slow
def test_bar_36_a_killed_worker_changes_no_loss(tmp_path: Path, undisturbed: list[tuple[int, str]]) -> None:
    training = Training(tmp_path, **LONG, data={"workers": 2})
    event = disturbed(training, signal.SIGKILL)
    assert event["facts"]["cause"] == "killed-by-SIGKILL"
    assert losses(training) == undisturbed


@pytest.mark.slow
def test_bar_36_a_worker_that_does_not_move_is_started_again(
    tmp_path: Path, undisturbed: list[tuple[int, str]]
) -> None:
    training = Training(tmp_path, **LONG, data={"workers": 2, "worker_timeout_seconds": 2.0})
    event = disturbed(training, signal.SIGSTOP)
    assert event["facts"]["cause"] == "stuck"
    assert "has not moved for 2 s" in event["message"]
    assert losses(training) == undisturbed


def test_bar_36_three_strikes_stop_the_run_which_keeps_its_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = Typed(tmp_path, monkeypatch, data={"workers": 1, "prefetch": 1})
    copy_beside(tmp_path)
    done = typed.train("--plugin", "spoiled:Deadly")
    assert done.code == ExitCode.ERROR, done.said
    said = " ".join(done.said.split())
    assert f"was killed by SIGSEGV while it decoded {tmp_path}/images/7.png, for the 3rd time without progress" in said
    assert "makes the library that decodes it crash: move it out of the data set" in said
    assert [event["facts"]["strike"] for event in typed.events("worker-restarted")] == [1, 2]
    taken = typed.metrics()[-1]["step"] if typed.metrics() else 0
    saved = sorted(path.name for path in typed.run.glob("checkpoints/step-*"))
    assert not taken or saved[-1] == f"step-{taken:08d}"
    (tmp_path / "cured").touch()
    done = typed.train("--plugin", "spoiled:Deadly")
    assert done.code == 0, done.said
    straight = typed.folder / "runs" / "straight"
    interrupted = losses(typed)
    assert typed.train("--plugin", "spoiled:Deadly", "--run-dir", straight).code == 0
    typed.run = straight
    assert losses(typed) == interrupted
    assert len(interrupted) == 6


@pytest.mark.slow
def test_bar_36_a_full_dev_shm_disturbs_nobody(tmp_path: Path, undisturbed: list[tuple[int, str]]) -> None:
    """A container has 64 MB there, which other programs may have filled: images do not travel through it."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        pytest.skip("a /dev/shm of one's own needs root and permission to mount")
    training = Training(tmp_path, **LONG, data={"workers": 2})
    fill = (
        "mount -t tmpfs -o size=64k tmpfs /dev/shm || exit 77; "
        "head -c 1000000 /dev/zero > /dev/shm/of-somebody-else 2> /dev/null; "
        'test "$(df --output=avail /dev/shm | tail -1)" -eq 0 || exit 78; exec "$@"'
    )
    command = ["unshare", "-m", "sh", "-c", fill, "sh", *training.words()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode == 77:
        pytest.skip("mounting is not permitted")
    assert done.returncode == 0, done.stderr
    assert training.events("worker-restarted") == []
    assert losses(training) == undisturbed


@pytest.mark.slow
def test_bar_36_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    training = Training(tmp_path, **merge(ENDLESS, {"data": {"workers": 2}}))
    with training.begun(step=2) as process:
        workers = workers_of(process)
        process.kill()
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert alive == []
