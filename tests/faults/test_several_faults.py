"""The reliability bar with several processes: what happens to one of them costs what it costs a run in one process.

Rows 16, 27, 33 and kills in the middle of a step are in tests/engine/test_peers.py and test_peers_apart.py as well.
"""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from acting import contents
from one_of_many.delays import SECONDS
from one_of_many.folder import put_into
from training import Training, merge

from bigrun.checkpoint import manifest
from bigrun.checkpoint.layout import parse_step
from bigrun.errors import ExitCode

SOON: dict[str, Any] = {"run": {"first_step_limit_seconds": 30.0, "save_limit_seconds": 30.0}}
NO_MEMORY = "one_of_many.resources:NoMemory"
HOST = socket.gethostname()


@pytest.fixture(params=["ddp", "fsdp"], autouse=True)
def strategy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything holds for copies of the networks and for shards."""
    chosen: str = request.param
    monkeypatch.setitem(SOON, "parallel", {"strategy": chosen})
    return chosen


def training_in(folder: Path, **tables: Any) -> Training:
    folder.mkdir(exist_ok=True)
    return Training(folder, **merge(SOON, tables))


def codes(done: list[Any]) -> list[int]:
    return [each.returncode for each in done]


def saved(training: Training) -> list[int]:
    """The steps of the published checkpoints."""
    steps = (parse_step(path.name) for path in (training.run / "checkpoints").glob("*"))
    return sorted(step for step in steps if step is not None)


def path_of(training: Training, step: int) -> Path:
    return training.run / "checkpoints" / f"step-{step:08d}"


# -- 1: kill -9 --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("who", ["0", "1", "0 1"], ids=["the main one", "another one", "all"])
@pytest.mark.parametrize("background", [True, False], ids=["background", "foreground"])
def test_bar_01_a_kill_at_any_moment_costs_less_than_an_interval(
    tmp_path: Path, who: str, background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIES", who)
    every = {"checkpoint_every_steps": 1, "background_checkpoints": background}
    training = training_in(tmp_path, run={"max_steps": 10_000, **every})
    for _ in range(4):
        done = training.together(2, "--plugin", "one_of_many.signals:DiesAtRandom")
        assert -9 in codes(done)
        steps = saved(training)
        if steps:
            assert manifest.verify(path_of(training, steps[-1])) == []
            last = training.metrics()[-1]["step"]
            assert last - steps[-1] <= 2, "one that is being written, and one whose step is over"
    training.configure(**merge(SOON, {"run": {"max_steps": max(saved(training), default=0) + 2, **every}}))
    assert codes(training.together(2)) == [0, 0]


# -- 5 and 6: a disk is full ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bar_05_a_disk_that_is_full_for_the_main_process_costs_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_ROOM", "0")
    monkeypatch.setenv("BYTES", "20000")
    training = training_in(tmp_path, run={"background_checkpoints": False})
    done = training.together(2, "--plugin", "one_of_many.resources:NoRoom")
    assert codes(done) == [0, 0], done[0].stderr + done[1].stderr
    assert saved(training) == [2, 6]
    (failed,) = training.events("checkpoint-failed")
    assert failed["facts"]["failed_step"] == 4
    assert not [path for path in (training.run / "checkpoints").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_bar_05_a_disk_that_is_full_to_the_end_ends_all_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_ROOM", "0")
    monkeypatch.setenv("BYTES", "20000")
    training = training_in(tmp_path, run={"background_checkpoints": False, "max_steps": 4})
    main, other = training.together(2, "--plugin", "one_of_many.resources:NoRoom")
    assert codes([main, other]) == [ExitCode.ERROR] * 2
    assert "the last state, after step 4, could not be saved" in main.stderr
    assert other.stderr == ""
    assert saved(training) == [2]


@pytest.mark.slow
def test_bar_06_telemetry_on_the_full_disk_of_another_process_is_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_ROOM", "1")
    monkeypatch.setenv("BYTES", "0")
    training = training_in(tmp_path, plugins={"telemetry": {"interval_seconds": 0.1}}, run={"max_steps": 40})
    done = training.together(2, "--plugin", "one_of_many.resources:NoRoom")
    assert codes(done) == [0, 0], done[0].stderr + done[1].stderr
    assert saved(training)[-1] == 40
    assert (training.run / "telemetry-rank-1.jsonl").read_text().endswith("\n")


# -- 9 and 11: damaged checkpoints -----------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.slow
def test_bar_09_and_11_all_go_on_from_the_same_checkpoint_or_none_does(tmp_path: Path) -> None:
    training = training_in(tmp_path)
    assert codes(training.together(2)) == [0, 0]
    flip(next(path_of(training, 6).glob("student*.safetensors")))
    done = training.together(2)
    assert codes(done) == [0, 0], done[0].stderr + done[1].stderr
    (event,) = training.events("checkpoint-refused")
    assert "student" in event["message"]
    assert "(resumed after step 4, " in done[0].stdout
    for step in saved(training):
        flip(next(path_of(training, step).glob("teacher*.safetensors")))
    main, other = training.together(2)
    assert main.returncode == other.returncode != 0
    assert "teacher" in main.stderr + main.stdout
    assert other.stderr == ""
    assert saved(training) == [2, 4, 6]


# -- 17 and 20: stop and continue ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bar_17_signals_again_and_again_to_all_save_once(tmp_path: Path) -> None:
    training = training_in(tmp_path, run={"checkpoint_every_steps": 100, "max_steps": 8})
    done = training.together(2, "--plugin", "one_of_many.signals:StopsAgain")
    assert codes(done) == [143, 143], done[0].stderr + done[1].stderr
    (step,) = saved(training)
    assert step in (4, 5)
    assert manifest.verify(path_of(training, step)) == []
    (stopped,) = training.events("stopped")
    assert stopped["step"] == step


@pytest.mark.slow
def test_bar_20_two_processes_that_were_stopped_end_where_they_would_have_ended(tmp_path: Path) -> None:
    straight, stopped = (training_in(tmp_path / name) for name in ("straight", "stopped"))
    assert codes(straight.together(2)) == [0, 0]
    assert codes(stopped.together(2, "--set", "run.max_hours=1e-9")) == [3, 3]
    assert saved(stopped) == [2]
    assert codes(stopped.together(2)) == [0, 0]
    assert contents(stopped.run, 6) == contents(straight.run, 6)


# -- 28: spikes ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bar_28_spikes_of_one_process_are_skipped_and_lead_all_back_to_one_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIKES", "65 66 67")
    tables = {"run": {"max_steps": 80, "log_every_steps": 10, "checkpoint_every_steps": 20}}
    training = training_in(tmp_path, **tables, plugins={"anomaly-guard": {}})
    done = training.together(2, "--plugin", "one_of_many.anomalies:Spikes")
    assert codes(done) == [0, 0], done[0].stderr + done[1].stderr
    spikes = [e for e in training.events("anomaly") if e["facts"]["anomaly"] == "loss-spike"]
    assert [(e["step"], e["facts"]["action"]) for e in spikes] == [(65, "skip"), (66, "skip"), (67, "roll-back")]
    (back,) = training.events("rolled-back")
    assert (back["facts"]["from_step"], back["facts"]["to_step"], back["facts"]["position"]) == (67, 60, 4 * 67)
    state = json.loads((path_of(training, 80) / "state.json").read_text())
    assert state["position"] == 4 * (67 + 20)


# -- 33, and memory --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("plugin", ["Raises", "Leaves"])
def test_bar_33_a_critical_plugin_that_fails_on_one_process_ends_all(
    tmp_path: Path, plugin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAISES", "0")
    training = training_in(tmp_path)
    main, other = training.together(2, "--plugin", f"one_of_many.failures:{plugin}")
    assert codes([main, other]) == [ExitCode.ERROR] * 2
    assert f"one_of_many.failures:{plugin} failed in before_update at step 4" in main.stderr
    assert saved(training) == [2]


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_without_memory_ends_all_with_its_message(
    tmp_path: Path, rank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_MEMORY", rank)
    training = training_in(tmp_path)
    main, other = training.together(2, "--plugin", NO_MEMORY)
    assert codes([main, other]) == [ExitCode.ERROR] * 2, main.stderr + other.stderr
    said = "step 4 needs more memory than the device has"
    assert said in (main.stderr, other.stderr)[int(rank)]
    assert "the newest checkpoint is what remains" in main.stderr
    if rank == "1":
        assert f"process 1 on {HOST} has ended: {said}" in main.stderr
    else:
        assert other.stderr == ""
    (event,) = training.events("error")
    assert said in event["message"]
    assert saved(training) == [2]
    monkeypatch.setenv("NO_MEMORY", "none")
    assert codes([training("--plugin", NO_MEMORY)]) == [0]


@pytest.mark.slow
def test_processes_without_memory_are_started_again_with_half_the_micro_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cannot go on in a new process by itself, as one alone does: all end, and the next start goes on."""
    monkeypatch.setenv("NO_MEMORY", "1")
    training = training_in(tmp_path, hardware={"on_oom": "halve"}, data={"micro_batch": 2})
    put_into(tmp_path)
    words = training.words("--processes", "2", "--supervise", "--plugin", NO_MEMORY, command="launch")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    goes_on = "the next start, by memory.json in the run directory, goes on with micro-batches of 1 instead of 2"
    (event,) = training.events("error")
    assert f"process 1 on {HOST} has ended: step 4 needs more memory than the device has" in event["message"]
    assert goes_on in event["message"]
    assert "restart 1 of 3" in done.stderr
    assert "restart 2" not in done.stderr
    assert "data.micro_batch = 1 (2 did not fit into the device's memory, see memory.json)" in done.stdout
    assert saved(training) == [2, 4, 6]
    again = training("--plugin", NO_MEMORY, "--set", "run.max_steps=7")
    assert again.returncode == 0, again.stderr
    assert "data.micro_batch = 1 (2 did not fit" in again.stdout, "what does not fit into one of two does not into one"


# -- stragglers --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "cause"),
    [
        ("hook", "compute"),
        ("images", "data"),
        ("before", "compute"),
        ("forward", "compute"),
        ("backward", "compute"),
    ],
)
def test_a_process_for_which_the_others_wait_is_named_once(
    tmp_path: Path, where: str, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a block computes is told from the wait for its weights, and for gradients of others."""
    monkeypatch.setenv("SLOW", where)
    training = training_in(tmp_path, run={"max_steps": 20, "log_every_steps": 4, "checkpoint_every_steps": 20})
    done = training.together(2, "--plugin", "one_of_many.delays:Slow")
    assert codes(done) == [0, 0], done[0].stderr + done[1].stderr
    (event,) = training.events("straggler")
    facts = event["facts"]
    assert (facts["rank"], facts["host"], facts["cause"]) == (1, HOST, cause)
    assert f"process 1 on {HOST} makes the others wait for" in done[0].stdout
    what = {"compute": "compute_seconds", "data": "data_wait_seconds"}[cause]
    for row in training.metrics()[1:]:  # the first step imports much
        assert row["ranks/slowest"] == 1
        assert row[f"ranks/{what}_max"] - row[f"ranks/{what}_median"] > 0.5 * SECONDS
