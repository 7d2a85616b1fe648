"""Bar 31 with several processes: one hangs, and the others wait for it. All write down where they stand, it is said
which one it is, all end with the exit code of a hang, and the same command continues. A long save is no hang.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from training import ENDLESS, Training, merge

from bigrun.checkpoint import manifest
from bigrun.errors import ExitCode

WATCHED: dict[str, Any] = {
    "run": {"background_checkpoints": False, "first_step_limit_seconds": 60.0, "save_limit_seconds": 60.0},
    "plugins": {"watchdog": {"step_limit_seconds": 2.0, "grace_seconds": 0.2}},
}


def watched(folder: Path, **tables: Any) -> Training:
    (folder / "harm").touch()
    return Training(folder, **merge(WATCHED, tables))


def endless(folder: Path, **tables: Any) -> Training:
    """One that does not end by itself; who is silent is lost after 15 s."""
    run = {"first_step_limit_seconds": 15.0, "checkpoint_every_steps": 2}
    return watched(folder, **merge(ENDLESS, {"run": run}, tables))


def started(training: Training) -> list[subprocess.Popen[str]]:
    """Two processes, of which the main one has the board, as where nobody else starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [
        subprocess.Popen(
            training.words(),
            cwd=training.folder,
            env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]


@pytest.mark.parametrize(
    ("where", "strategy"),
    [
        ("1 after_backward", "ddp"),
        pytest.param("0 after_backward", "ddp", marks=pytest.mark.slow),
        pytest.param("1 before_step", "ddp", marks=pytest.mark.slow),
        pytest.param("0 on_metrics", "ddp", marks=pytest.mark.slow),
        pytest.param("1 after_backward", "fsdp", marks=pytest.mark.slow),
        pytest.param("0 before_step", "fsdp", marks=pytest.mark.slow),
    ],
)
def test_bar_31_a_process_that_hangs_is_named_and_ends_all(
    tmp_path: Path, where: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANGS", where)
    training, rank = watched(tmp_path, parallel={"strategy": strategy}), int(where[0])
    done = training.together(2, "--plugin", "one_of_many.delays:Hangs")
    assert [each.returncode for each in done] == [ExitCode.HUNG] * 2, done[0].stderr + done[1].stderr
    name = f"process {rank} on {socket.gethostname()}"
    assert f"the others wait for this one, {name}" in done[rank].stderr
    assert name in done[1 - rank].stderr + done[0].stderr
    folder = training.run / "watchdog"
    of_hung, of_other = (sorted(folder.glob(f"stacks-*step-[45]{suffix}.txt")) for suffix in ("", "-rank-1"))
    if rank == 1:
        of_hung, of_other = of_other, of_hung
    assert "never_returns" in of_hung[0].read_text()
    text = of_other[0].read_text()
    assert name in text
    assert "never_returns" not in text
    (checkpoint,) = (training.run / "checkpoints").iterdir()
    assert manifest.verify(checkpoint) == []
    (training.folder / "harm").unlink()
    again = training.together(2, "--plugin", "one_of_many.delays:Hangs")
    assert [each.returncode for each in again] == [0, 0], again[0].stderr + again[1].stderr
    (event,) = training.events("hang")
    assert event["facts"]["rank"] == rank
    assert not list(folder.glob("hang*.json"))


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "strategy"), [(1, "ddp"), (0, "ddp"), (1, "fsdp")])
def test_bar_31_a_process_that_is_stopped_is_named_and_ends_all(tmp_path: Path, rank: int, strategy: str) -> None:
    training = endless(tmp_path, parallel={"strategy": strategy})
    words = ("--processes", "2", "--grace-seconds", "6")
    with training.begun(*words, step=4, command="launch") as launcher:
        members = {int(each.environ()["RANK"]): each for each in psutil.Process(launcher.pid).children()}
        members[rank].send_signal(signal.SIGSTOP)
        output, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == ExitCode.HUNG, output
    name = f"process {rank} on {socket.gethostname()}"
    assert f"it waits for {name}, which has said nothing for " in output
    assert not any(each.is_running() for each in members.values())
    assert "had not ended 6 s after another one was lost, and was killed" in output
    (stacks,) = (training.run / "watchdog").glob(f"stacks-*{'-rank-1' * (rank == 0)}.txt")
    assert name in stacks.read_text()
    again = training("--set", f"run.max_steps={training.metrics()[-1]['step'] + 1}")
    assert again.returncode == 0, again.stderr
    (event,) = training.events("hang")
    assert name in event["message"]


@pytest.mark.slow
def test_bar_31_a_stopped_main_process_is_named_although_it_has_the_board(tmp_path: Path) -> None:
    training = endless(tmp_path)
    main, other = started(training)
    try:
        while not any(row["step"] >= 4 for row in training.metrics()):
            assert main.poll() is None, main.communicate()[0]
            time.sleep(0.01)
        main.send_signal(signal.SIGSTOP)
        output, _ = other.communicate(timeout=120)
        assert other.returncode == ExitCode.HUNG, output
        assert (
            f"it waits for process 0 on {socket.gethostname()} or its launcher, which has said nothing for " in output
        )
    finally:
        for process in (main, other):
            process.kill()
            process.communicate()


def check_no_hang(folder: Path, plugin: str, limit_seconds: float) -> Training:
    """Two processes, one of which is slow in its way, end as if nobody watched."""
    training = watched(folder, plugins={"watchdog": {"step_limit_seconds": limit_seconds, "grace_seconds": 0.0}})
    done = training.together(2, "--plugin", plugin)
    assert [each.returncode for each in done] == [0, 0], done[0].stderr + done[1].stderr
    assert list((training.run / "watchdog").iterdir()) == []
    return training


@pytest.mark.slow
def test_bar_31_a_process_that_runs_no_python_for_longer_than_a_step_may_take_is_no_hang(tmp_path: Path) -> None:
    check_no_hang(tmp_path, "one_of_many.delays:KeepsInterpreter", 1.0)


@pytest.mark.slow
def test_bar_31_a_long_save_of_the_main_process_is_no_hang_of_the_others(tmp_path: Path) -> None:
    training = check_no_hang(tmp_path, "harm:SavesSlowly", 0.8)
    assert json.loads((training.run / "saved.json").read_text())["step"] == 6
