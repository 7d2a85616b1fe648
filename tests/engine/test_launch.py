"""`bigrun launch`: the processes of a run on one machine or several, and one exit code."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import psutil
import pytest
import torch
import warm
from one_of_many.folder import put_into
from training import ENDLESS, Training, read_lines

from bigrun.errors import ExitCode, UsageError
from bigrun.launch.group import Group
from bigrun.launch.size import Nodes, processes_here
from bigrun.sections import Hardware
from bigrun.supervisor.signals import blocked

TWO = ("--processes", "2")

# -- how many --------------------------------------------------------------------------------------------------


def test_on_a_cpu_the_number_is_said() -> None:
    cpu = Hardware(device="cpu")
    assert processes_here(cpu, None, 3) == processes_here(cpu, 3, None) == 3
    with pytest.raises(UsageError, match="--processes N"):
        processes_here(cpu, None, None)
    with pytest.raises(UsageError, match="100000 processes are too many for the"):
        processes_here(cpu, None, 100_000)


@pytest.mark.parametrize(
    ("gpus", "processes", "visible", "expected"),
    [(None, None, 8, 8), (2, None, 8, 2), (None, 2, 8, 2), (None, 2, 0, 2), (9, None, 8, None), (None, 9, 8, None),
     (2, None, 0, None), (None, None, 0, None)],
)  # fmt: skip
def test_no_gpu_is_shared_and_none_is_replaced_by_the_cpu_unasked(
    gpus: int | None, processes: int | None, visible: int, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    hardware = Hardware(device="auto")
    if expected is not None:
        assert processes_here(hardware, gpus, processes) == expected
        return
    with pytest.raises(UsageError, match=f"sees {visible or 'no GPU'}.*--processes N --device cpu"):
        processes_here(hardware, gpus, processes)
    with pytest.raises(UsageError):
        processes_here(attrs.evolve(hardware, device="cuda"), gpus, processes)


def test_machines_find_each_other_or_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NODEID", "1")
    assert Nodes.of_options(2, None, "gpu-1:29500") == Nodes(2, 1, "gpu-1", 29500)
    assert Nodes.of_options(2, 0, "fe80::1:29500") == Nodes(2, 0, "fe80::1", 29500)
    monkeypatch.delenv("SLURM_NODEID")
    for count, rank, rendezvous, said in [
        (2, None, "gpu-1:29500", "--node-rank 0 on the first machine"),
        (2, 2, "gpu-1:29500", "they are 0 to 1"),
        (2, 0, None, "HOST:PORT"),
        (2, 0, "gpu-1", "HOST:PORT"),
        (2, 0, "gpu-1:99999", "HOST:PORT"),
        (2, 0, f"gpu-1:{'9' * 5000}", "HOST:PORT"),
        (1, 0, None, "add --nodes N"),
    ]:
        with pytest.raises(UsageError, match=said):
            Nodes.of_options(count, rank, rendezvous)


# -- who ends, and when ----------------------------------------------------------------------------------------


# A shell does not listen to a signal that was blocked when it began.
SHELL = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_UNBLOCK, range(1, 32)); "
    "os.execv('/bin/sh', ['sh', '-c', sys.argv[1]])"
)


def group_of(*scripts: str, grace_seconds: float = 60.0) -> Group:
    """Of shells, to their end."""
    group = Group(grace_seconds)
    with blocked():
        for script in scripts:
            group.start([sys.executable, "-c", SHELL, script], os.environ, [])
        while group.look():
            time.sleep(0.02)
    return group


@pytest.mark.parametrize(
    ("scripts", "code"),
    [
        (["exit 0", "exit 0"], 0),
        (["sleep 0.5; exit 4", "exit 0"], ExitCode.QUARANTINED),
        (["trap 'sleep 0.2; exit 1' TERM; while :; do sleep 0.05; done", "kill -9 $$"], -9),
        (["kill -9 $$", "sleep 0.3; exit 1"], -9),
        (["exit 2", "sleep 60"], ExitCode.USAGE),
    ],
)
def test_the_code_is_that_of_the_first_failure_or_of_the_main_process(scripts: list[str], code: int) -> None:
    assert group_of(*scripts, grace_seconds=0.5).code == code


@pytest.mark.parametrize("code", [ExitCode.HALTED, 143])
def test_nobody_is_ended_because_another_has_ended_with_the_run(code: int) -> None:
    assert group_of(f"sleep 0.5; exit {code}", f"exit {code}", grace_seconds=0.1).ended == [(1, code), (0, code)]


def test_who_cannot_go_on_and_does_not_end_is_killed_when_its_time_is_up() -> None:
    group = group_of("trap '' TERM; sleep 60 & wait; sleep 60", "exit 1", grace_seconds=0.5)
    assert group.ended == [(1, 1), (0, -9)]


def test_a_group_that_lost_another_machine_does_not_say_that_it_was_killed() -> None:
    group = Group(0.1)
    with blocked():
        group.start([sys.executable, "-c", SHELL, "sleep 60"], os.environ, [])
        group.abandon()
        while group.look():
            time.sleep(0.02)
    assert (group.failure, group.code) == (None, ExitCode.ERROR)


def test_who_was_told_to_stop_may_still_say_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigrun.launch.group.NOTICE_SECONDS", 0.1)
    group = Group(60.0)
    with blocked():
        group.start([sys.executable, "-c", SHELL, "trap 'exit 2' TERM; while :; do sleep 0.05; done"], os.environ, [])
        time.sleep(1.0)
        group.abandon()
        while group.look():
            time.sleep(0.02)
    assert group.code == ExitCode.USAGE


# -- real runs -------------------------------------------------------------------------------------------------


def endless(folder: Path, **tables: Any) -> Training:
    put_into(folder)
    return Training(folder, **ENDLESS | tables)


def launched(training: Training, *arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.bigrun(training.folder, "launch", "tiny.toml", *TWO, *arguments)


def test_a_stop_signal_reaches_all_and_the_run_ends_as_one_process_does(tmp_path: Path) -> None:
    training = endless(tmp_path)
    with training.begun(*TWO, command="launch") as process:
        members = psutil.Process(process.pid).children()
        assert len(members) == 2
        process.send_signal(signal.SIGUSR1)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGUSR1, output
    assert not psutil.wait_procs(members, timeout=1)[1]
    assert output.count("stopped after step") == output.count("batch        effective") == 1
    assert "processes 2" in output
    assert "[rank" not in output
    (event,) = training.events("stopped")
    (checkpoint,) = (training.run / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{event['step']:08d}"


def test_what_is_wrong_is_said_once_and_nothing_is_started(tmp_path: Path) -> None:
    training = Training(tmp_path)
    for words, said in [
        (["--set", "model.dept=3"], "model.dept: unknown option"),
        (["--run-dir", "images"], "holds files but no run"),
        (["--gpus", "2"], "two names of one number"),
        (["--nodes", "2", "--supervise"], "--supervise is for one machine"),
        (["--max-restarts", "2"], "--max-restarts has no effect without --supervise"),
        (["--allow-change", "nosuch.key"], "--allow-change nosuch.key: is no option"),
        (["--steps", "3"], "--steps has no effect without --dry-run"),
        (["--nodes", "99999999999", "--node-rank", "0", "--rendezvous", "localhost:1234"], "1<=x<=10000"),
        (["--processes", "10001"], "1<=x<=10000"),
        (["--processes", "two"], "'two' is not a whole number"),
        (["--processes", "1.5"], "'1.5' is not a whole number"),
        (["--grace-seconds", "two"], "'two' is not a number"),
        (["--gpu", "2"], "--gpus"),  # and no --cpus, which is as near
        (["--grace-seconds", "nan"], "'nan' is not a finite number"),
        (["--grace-seconds", "inf"], "0<=x<=604800"),
        (["--time", "1:00:00"], "--time has no effect without --slurm"),
    ]:
        done = launched(training, *words)
        assert done.returncode == ExitCode.USAGE, done.stderr
        assert done.stderr.count(said) == 1
        assert "--cpus" not in done.stderr
    assert not training.run.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--set", "data.path=nowhere"], ExitCode.USAGE),
        (["--set", "data.effective_batch=5"], ExitCode.USAGE),
        (["--plugin", "one_of_many.anomalies:Halts"], ExitCode.HALTED),
        (["--plugin", "one_of_many.failures:Fails", "--set", "run.max_steps=4"], ExitCode.QUARANTINED),
        (["--max-hours", "1e-9"], ExitCode.STOPPED),
        (["--plugin", "one_of_many.signals:Stops"], 143),
        (["--plugin", "one_of_many.images:Empty"], ExitCode.ERROR),
        (["--plugin", "one_of_many.signals:Dies"], 137),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else str(int(value)),
)
def test_the_exit_code_is_that_of_the_run(
    tmp_path: Path, words: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIES", "1")
    done = launched(endless(tmp_path), *words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2, done.stderr
    if code == 137:
        assert "error: process 1 of this machine was killed by signal 9 (SIGKILL, often: out of memory)" in done.stderr


@pytest.mark.slow
def test_several_processes_begin_at_a_checkpoint_of_another_run(tmp_path: Path) -> None:
    training = Training(tmp_path)
    assert training("--set", "run.max_steps=2").returncode == 0
    source = training.run / "checkpoints" / "step-00000002"
    done = training.together(2, "--from", str(source), "--run-dir", "runs/branch", "--set", "run.max_steps=4")
    assert [each.returncode for each in done] == [0, 0], done[0].stderr + done[1].stderr
    checkpoints = tmp_path / "runs" / "branch" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000002", "step-00000004"]


@pytest.mark.slow
def test_nobody_is_killed_who_still_has_to_do_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's agent would kill the main process 30 seconds after the other has ended with 143."""
    monkeypatch.setenv("LATE_SECONDS", "33")
    plugins = ("--plugin", "one_of_many.signals:Stops", "--plugin", "one_of_many.delays:EndsLate")
    done = launched(endless(tmp_path), *plugins)
    assert done.returncode == 143, done.stderr
    assert (tmp_path / "late").exists()
    assert "stopped after step" in done.stdout


@pytest.mark.slow
def test_processes_whose_launcher_is_killed_save_and_end(tmp_path: Path) -> None:
    training = endless(tmp_path)
    with training.begun(*TWO, command="launch") as process:
        members = psutil.Process(process.pid).children()
        process.kill()
        assert not psutil.wait_procs(members, timeout=60)[1]
    assert len(list((training.run / "checkpoints").iterdir())) == 1


@pytest.mark.slow
def test_a_supervised_group_is_started_again_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process is killed; all begin again at the newest checkpoint, until that does not help."""
    monkeypatch.setenv("DIES", "1")
    put_into(tmp_path)
    training = Training(tmp_path, run={"background_checkpoints": False})
    words = ["--supervise", "--max-restarts", "1", "--plugin", "one_of_many.signals:Dies"]
    done = launched(training, *words)
    assert done.returncode == ExitCode.NO_PROGRESS, done.stderr
    log = training.run / "supervisor" / "log.jsonl"
    ends = [(row["returncode"], row["step"], row["newest"]) for row in read_lines(log) if row["what"] == "ended"]
    assert ends == [(-9, 3, 2)] * 2
    assert len(training.events("restarted")) == 1
    assert "killed by signal 9 (SIGKILL, often: out of memory) after step 3" in done.stderr
    monkeypatch.setenv("DIES", "none")
    assert launched(training, *words).returncode == 0
    assert training.metrics()[-1]["step"] == 6


@pytest.mark.slow
def test_a_signal_to_the_supervisor_of_a_group_stops_it(tmp_path: Path) -> None:
    training = endless(tmp_path)
    with training.begun(*TWO, "--supervise", command="launch") as process:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert "supervisor:" not in output
    assert len(list((training.run / "checkpoints").iterdir())) == 1


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def on_two_machines(words: list[list[str]], folder: Path) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of each."""
    started = [
        subprocess.Popen(each, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for each in words
    ]
    texts = [process.communicate(timeout=180) for process in started]
    return [(process.returncode, *text) for process, text in zip(started, texts, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["launch", "torchrun"])
def test_two_machines_with_different_numbers_of_processes_are_one_run(tmp_path: Path, starter: str) -> None:
    training = Training(tmp_path, data={"effective_batch": 6})
    port = free_port()
    if starter == "launch":
        place = ["--nodes", "2", "--rendezvous", f"localhost:{port}"]
        words = [
            training.words(*place, "--node-rank", str(rank), "--processes", str(count), command="launch")
            for rank, count in enumerate((2, 1))
        ]
    else:
        place = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "a"]
        agent = [sys.executable, "-m", "torch.distributed.run", *place, "--local-addr", "127.0.0.1"]
        words = [[*agent, "--nproc-per-node", str(count), "-m", "bigrun", "run", "tiny.toml"] for count in (2, 1)]
    done = on_two_machines(words, tmp_path)
    assert [code for code, _, _ in done] == [0, 0], done
    assert sum("processes 3" in output for _, output, _ in done) == 1
    assert [row["step"] for row in training.metrics()] == [1, 2, 3, 4, 5, 6]
    if starter == "launch":
        assert done[1][1:] == ("", "")
        assert done[0][2] == ""
    assert training("--set", "run.max_steps=7").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "2"], ids=["the main process", "another machine's"])
def test_a_process_that_is_killed_ends_all_machines(tmp_path: Path, rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIES", rank)
    put_into(tmp_path)
    training = Training(tmp_path, data={"effective_batch": 6})
    place = ["--nodes", "2", "--rendezvous", f"localhost:{free_port()}", "--plugin", "one_of_many.signals:Dies"]
    words = [
        training.words(*place, "--node-rank", str(node), "--processes", str(count), command="launch")
        for node, count in enumerate((2, 1))
    ]
    codes = [code for code, _, _ in on_two_machines(words, tmp_path)]
    assert codes == ([137, 1] if rank == "0" else [1, 137])


@pytest.mark.slow
def test_what_is_wrong_on_another_machine_is_said_on_the_first_one(tmp_path: Path) -> None:
    training = Training(tmp_path)
    place = ["--nodes", "2", "--rendezvous", f"localhost:{free_port()}", "--processes", "1"]
    words = [training.words(*place, "--node-rank", str(node), command="launch") for node in range(2)]
    main, other = on_two_machines([words[0], [*words[1], "--set", "data.path=nowhere"]], tmp_path)
    assert (main[0], other[0]) == (ExitCode.USAGE, ExitCode.USAGE)
    said = f"{tmp_path / 'nowhere'}: no such folder; expected a folder of images - check data.path\n"
    assert other[1:] == ("", f"error: {said}")
    assert main[2] == f"error: process 1 on {socket.gethostname()} has ended: {said}"


@pytest.mark.slow
def test_machines_that_do_not_meet_say_where(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = ["--nodes", "2", "--node-rank", "0", "--rendezvous", f"127.0.0.1:{taken.getsockname()[1]}"]
        training = Training(tmp_path)
        done = subprocess.run(
            training.words(*place, "--processes", "1", command="launch"), cwd=tmp_path, capture_output=True, text=True
        )
    assert done.returncode == ExitCode.ERROR
    assert "the 2 machines have not met at 127.0.0.1:" in done.stderr
    assert "Traceback" not in done.stderr
