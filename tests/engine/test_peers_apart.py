"""Processes of one run that come to different ends of the same thing: none waits for another one for ever."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import warm
from one_of_many.folder import put_into
from torch.distributed import TCPStore
from training import Training, merge

from bigrun.errors import ExitCode
from bigrun.peers.board import Board

# Whoever waits for ever is an error after so long, and not a test that does not end.
SOON: dict[str, Any] = {"run": {"first_step_limit_seconds": 20.0, "save_limit_seconds": 20.0}}
HOST = socket.gethostname()


def training_with(folder: Path, **tables: Any) -> Training:
    return Training(folder, **merge(SOON, tables))


def checkpoints(training: Training) -> list[str]:
    return sorted(path.name for path in (training.run / "checkpoints").iterdir())


def test_a_plugin_that_fails_on_one_when_the_others_are_ready_ends_all(tmp_path: Path) -> None:
    main, other = training_with(tmp_path).together(2, "--plugin", "one_of_many.failures:FailsInStart")
    assert main.returncode == other.returncode == ExitCode.ERROR
    said = "one_of_many.failures:FailsInStart failed in on_start"
    assert other.stderr.startswith(f"error: {said}")
    assert main.stderr.startswith(f"error: process 1 on {HOST} has ended: {said}")


def test_what_ends_another_process_at_the_start_is_said_where_the_main_one_is_read(tmp_path: Path) -> None:
    """Of machines that are started each for itself, the first one is looked at."""
    training = Training(tmp_path)
    main, other = warm.together(tmp_path, 2, "run", "tiny.toml", only={1: ["--set", "data.path=nowhere"]})
    assert main.returncode == other.returncode == ExitCode.USAGE
    said = f"{tmp_path / 'nowhere'}: no such folder; expected a folder of images - check data.path\n"
    assert other.stderr == f"error: {said}"
    assert main.stderr == f"error: process 1 on {HOST} has ended: {said}"
    assert not training.run.exists()


def test_what_ends_one_of_a_launch_is_said_once(tmp_path: Path) -> None:
    """All print to one terminal."""
    put_into(tmp_path)
    training_with(tmp_path)
    words = ["launch", "tiny.toml", "--processes", "2", "--plugin", "one_of_many.failures:FailsInStart"]
    done = warm.bigrun(tmp_path, *words)
    assert done.returncode == ExitCode.ERROR
    assert done.stderr.count("FailsInStart failed in on_start") == 1


@pytest.mark.parametrize("late", ["0", "1"])
def test_a_refusal_of_all_is_said_once_whoever_comes_to_it_last(
    tmp_path: Path, late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process has begun the run, and of two it would be another objective. Ranks decide who says so."""
    monkeypatch.setenv("LATE", late)
    training = training_with(tmp_path, objective={"koleo_weight": 0.1})
    assert training("--set", "run.max_steps=1").returncode == 0
    main, other = training.together(2, "--plugin", "one_of_many.delays:BeginsLate")
    assert main.returncode == other.returncode == ExitCode.USAGE
    assert main.stderr.startswith("error: of the 4 images of a step each of 2 processes has 2: ")
    assert main.stderr.count("error:") == 1
    assert other.stderr == ""


def test_a_board_whose_keeper_is_gone_is_asked_once(capfd: pytest.CaptureFixture[str]) -> None:
    """torch prints a stack of C++ for every question."""
    keeper = TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    board = Board(TCPStore("127.0.0.1", keeper.port, 2, is_master=False), 1, 2)
    board.say("end", {})
    assert board.heard("end") == [{"rank": 1}]
    del keeper
    began = time.monotonic()
    board.wait_for_others("end-heard", 30.0)
    asking = [threading.Thread(target=board.post, args=({},)) for _ in range(3)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert board.heard("end") == [{"rank": 1}]
    assert board.posted() == {}
    assert time.monotonic() - began < 10
    assert capfd.readouterr().err.count("[c10d]") <= 1


@pytest.mark.parametrize(
    ("asks", "place"),
    [("one", "bits of 1 in bigrun.loop.judge"), ("both", "gathered in one_of_many.requests.AsksOthers.ask")],
)
def test_processes_that_are_in_different_exchanges_say_in_which(
    asks: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASKS", asks)
    main, other = training_with(tmp_path).together(2, "--plugin", "one_of_many.requests:AsksOthers")
    assert main.returncode == other.returncode == ExitCode.ERROR
    both = [f"process 0: {place}", "process 1: gathered in one_of_many.requests.AsksOthers.before_update"]
    for done in (main, other):
        assert all(words in done.stderr for words in both), done.stderr
        assert "Traceback" not in done.stderr


def test_an_observer_that_waits_for_one_that_has_failed_takes_nobody_elses_answer(tmp_path: Path) -> None:
    plugins = {"one_of_many.requests:AsksFirst": {}, "one_of_many.requests:AsksSecond": {}}
    main, other = training_with(tmp_path, plugins=plugins).together(2)
    assert main.returncode == other.returncode == ExitCode.ERROR
    names = [
        f"process {rank}: gathered in one_of_many.requests.Asks{which}.after_step"
        for rank, which in enumerate(("First", "Second"))
    ]
    for done in (main, other):
        assert all(words in done.stderr for words in names), done.stderr
        assert "Traceback" not in done.stderr


def test_what_ends_one_process_in_a_step_is_said_by_the_main_one_and_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAISES", "1")
    training = training_with(tmp_path)
    main, other = training.together(2, "--plugin", "one_of_many.failures:Raises")
    assert main.returncode == other.returncode == ExitCode.ERROR
    said = "one_of_many.failures:Raises failed in before_update at step 4: ValueError: in the middle"
    assert said in other.stderr
    assert f"process 1 on {HOST} has ended: {said}" in main.stderr
    assert "Traceback" not in main.stderr + other.stderr
    (event,) = training.events("error")
    assert said in event["message"]
    assert checkpoints(training) == ["step-00000002"]


@pytest.mark.slow
def test_images_that_only_the_main_process_misses_end_all(tmp_path: Path) -> None:
    """The others are somewhere else, and take part in no last checkpoint."""
    training = training_with(tmp_path)
    main, other = training.together(2, "--plugin", "one_of_many.failures:CannotLook")
    assert main.returncode == other.returncode == ExitCode.ERROR
    assert "error: no image to look at" in main.stderr
    assert other.stderr == ""
    assert checkpoints(training) == ["step-00000002"]


@pytest.mark.slow
def test_a_checkpoint_that_one_process_asks_for_is_saved_when_all_know(tmp_path: Path) -> None:
    training = training_with(tmp_path, run={"checkpoint_every_steps": 100})
    main, other = training.together(2, "--plugin", "one_of_many.anomalies:AsksLate")
    assert (main.returncode, other.returncode) == (0, 0), main.stderr + other.stderr
    assert checkpoints(training) == ["step-00000004", "step-00000006"]  # all know in the step after


@pytest.mark.parametrize(
    ("answers", "code"), [("warn halt", 0), pytest.param("halt warn", ExitCode.HALTED, marks=pytest.mark.slow)]
)
def test_the_answers_of_the_main_process_are_those_of_all(
    tmp_path: Path, answers: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSWERS", answers)
    training = training_with(tmp_path)
    main, other = training.together(2, "--plugin", "one_of_many.anomalies:Disagrees")
    assert main.returncode == other.returncode == code, main.stderr + other.stderr
    (anomaly,) = training.events("anomaly")
    assert anomaly["facts"]["action"] == answers.split()[0]


@pytest.mark.slow
def test_processes_that_have_not_the_same_images_are_refused(tmp_path: Path) -> None:
    training = training_with(tmp_path)
    main, other = training.together(2, "--plugin", "one_of_many.images:OtherImages")
    assert main.returncode == other.returncode == ExitCode.USAGE
    assert "the number of images: 64 on process 0, 63 on process 1" in main.stderr
    assert other.stderr == ""
    assert not training.run.exists()


@pytest.mark.slow
def test_processes_with_other_options_are_refused(tmp_path: Path) -> None:
    training = training_with(tmp_path)
    main, other = warm.together(
        tmp_path, 2, "run", "tiny.toml", only={1: ["--set", "run.seed=5", "--set", "hardware.threads=2"]}
    )
    assert main.returncode == other.returncode == ExitCode.USAGE
    assert "run.seed: 0 on process 0, 5 on process 1" in main.stderr
    assert "threads" not in main.stderr
    assert not training.run.exists()


@pytest.mark.slow
def test_processes_with_other_run_directories_are_refused(tmp_path: Path) -> None:
    """Of the same last name, too."""
    training_with(tmp_path)
    words = {rank: ["--run-dir", f"{name}/run"] for rank, name in enumerate("xy")}
    main, other = warm.together(tmp_path, 2, "run", "tiny.toml", only=words)
    assert main.returncode == other.returncode == ExitCode.USAGE
    assert "the run directory: 'x/run' on process 0, 'y/run' on process 1" in main.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "resumes"), [("fsdp", False), ("ddp", True)])
def test_a_process_that_does_not_see_the_run_directory_is_refused(tmp_path: Path, strategy: str, resumes: bool) -> None:
    """Another machine, with another disk at the same path."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        training = training_with(tmp_path / name, parallel={"strategy": strategy})
        if resumes:
            assert training("--set", "run.max_steps=2").returncode == 0
    main, other = warm.together(tmp_path / "one", 2, "run", "tiny.toml", elsewhere={1: tmp_path / "two"})
    assert main.returncode == other.returncode == ExitCode.USAGE
    run = Path("runs") / "tiny"
    assert f"do not see the run directory of process 0 on {HOST}, {tmp_path / 'one' / run}" in main.stderr
    assert f"  process 1 on {HOST}, at {tmp_path / 'two' / run}\n" in main.stderr
    assert "on storage that all machines share" in main.stderr
    assert other.stderr == ""
    assert (tmp_path / "one" / run).exists() == resumes


@pytest.mark.slow
def test_a_process_whose_others_never_begin_says_so(tmp_path: Path) -> None:
    training_with(tmp_path, run={"first_step_limit_seconds": 1.0, "save_limit_seconds": 1.0})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    (done,) = warm.started(tmp_path, ["run", "tiny.toml"], [{**os.environ, **place}], {})
    assert done.returncode == ExitCode.ERROR
    assert "process 0 of 2 waits for the others at 127.0.0.1:" in done.stderr
    assert "process 0 of 2: the others have not begun within 1 s" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_bad_images_of_all_processes_count_and_are_in_the_checkpoint(tmp_path: Path) -> None:
    tables = {"data": {"effective_batch": 16, "max_bad_fraction": 0.2}}
    training = training_with(tmp_path, **tables)
    main, other = training.together(2, "--plugin", "one_of_many.images:BadImages")
    assert (main.returncode, other.returncode) == (0, 0), main.stderr + other.stderr
    state = (training.run / "checkpoints" / "step-00000006" / "state.json").read_text()
    listed = (training.run / "bad-images.jsonl").read_text().splitlines()
    events = training.events("image-skipped")
    assert len(listed) == len(events) == state.count('"truncated"') == 8
    assert {event["facts"].get("rank") for event in events} == {None, 1}


def test_more_bad_images_than_may_be_on_all_processes_together_end_all(tmp_path: Path) -> None:
    tables = {"data": {"effective_batch": 16, "max_bad_fraction": 0.1}, "run": {"checkpoint_every_steps": 100}}
    training = training_with(tmp_path, **tables)
    main, other = training.together(2, "--plugin", "one_of_many.images:BadImages")
    assert main.returncode == other.returncode == ExitCode.ERROR
    assert "of 64 files cannot be used" in main.stderr
    assert other.stderr == ""
    assert len(training.events("image-skipped")) == 7  # of six that may be; each process has met fewer
    assert len(checkpoints(training)) == 1, "nothing is wrong with the weights"
