"""`bigrun tune` as a user types it: real trials of a tiny preset, some of which end badly."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli
import warm
from training import Training, read_lines

from bigrun.activation import activate
from bigrun.config import Document, read_preset
from bigrun.tuner.isolation import ask, ended_for_memory

# Micro-batches of more than 4 do not fit, those of less end the process.
HARM = """
import os
import torch
from bigrun import hookimpl


class Harm:
    @hookimpl
    def loss_terms(self, run, step, micro, batch, outputs):
        if run.config.data.micro_batch > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has ...")
        if run.config.data.micro_batch < 4:
            os.abort()
        return {}


class Slow:
    @hookimpl
    def after_backward(self, run):
        import time
        time.sleep(60)
"""


def training(folder: Path, **tables: Any) -> Training:
    data = {"effective_batch": 8, "micro_batch": 8} | tables.pop("data", {})
    (folder / "breaks.py").write_text(HARM)
    return Training(folder, data=data, run={"max_steps": 3}, **tables)


def words(*more: str) -> list[str]:
    return ["tune", "tiny.toml", "--steps", "2", "--seconds", "0", "--out", "out", *more]


def tune(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return warm.bigrun(folder, *words(*more))


def all_end(processes: list[psutil.Process], seconds: float = 5.0) -> bool:
    """Whether they do, within some seconds; nobody may be there to ask how."""
    deadline = time.monotonic() + seconds
    while left := [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > deadline:
            return not left
        time.sleep(0.02)
    return True


@pytest.mark.slow
def test_memory_that_runs_out_and_a_crash_are_rows_and_not_the_end(tmp_path: Path) -> None:
    run = training(tmp_path)
    done = tune(tmp_path, "--plugin", "breaks:Harm", "--workers", "0", "--json", "--micro-batch", "2,4,8")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = {row["micro_batch"]: row for row in found["trials"]}
    assert {size: row["status"] for size, row in rows.items()} == {8: "out-of-memory", 4: "ok", 2: "crash"}
    assert "CUDA out of memory" in rows[8]["message"]
    assert "killed by SIGABRT" in rows[2]["message"]
    best = found["best"]
    assert best["micro_batch"] == 4
    assert best["trial_batch"] == 8
    assert best["peak_memory_bytes"] > 50e6
    assert best["forward_ms"] > 0
    assert best["backward_ms"] > 0
    assert best["optimizer_ms"] > 0
    total = sum(best[f"{phase}_ms"] for phase in ("data", "transfer", "forward", "backward", "optimizer", "other"))
    assert best["images_per_second"] == pytest.approx(1000 / total)
    assert not run.run.exists(), "a trial leaves no run"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "trials.jsonl", "trials.json", "trials.csv", "tuned.toml",
    }  # fmt: skip
    again = tune(tmp_path, "--plugin", "breaks:Harm", "--workers", "0", "--json", "--micro-batch", "2,4,8")
    assert again.stderr.count("(known)") == 3
    assert json.loads(again.stdout)["trials"] == found["trials"]


@pytest.mark.slow
def test_what_it_recommends_is_a_part_of_a_preset(tmp_path: Path) -> None:
    run = training(tmp_path)
    done = tune(tmp_path, "--micro-batch", "4,8", "--workers", "0,1", "--inflate", "3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    trials = [line for line in lines if line.startswith("trial ")]
    assert 2 <= len(trials) <= 4 + 2 * 4, "each value once, and twice two beside each other"
    assert "compute-bound" in done.stdout or "data-bound" in done.stdout
    fragment = tomli.loads((tmp_path / "out" / "tuned.toml").read_text())
    activate(Document("tuned.toml", "tuned", fragment))
    (use,) = [line for line in lines if line.startswith("use it ")]
    assert use.split()[2:] == ["--with", "out/tuned.toml"]
    (words_instead,) = [line for line in lines if line.startswith("or ")]
    sets = [word for word in words_instead.split()[1:] if word != "--set"]
    config, _ = activate(read_preset(str(tmp_path / "tiny.toml"), sets))
    assert config.data.micro_batch == fragment["data"]["micro_batch"]
    assert config.data.workers == fragment["data"]["workers"]
    assert config.hardware.pin_memory == fragment["hardware"]["pin_memory"]
    with (tmp_path / "out" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(trials)
    for row in rows:
        assert bool(row["decoded_per_second"]) is (row["workers"] == "1"), "who decodes is asked how fast"
    assert (
        read_preset(str(tmp_path / "tiny.toml"), files=[tmp_path / "out" / "tuned.toml"]).tables
        == read_preset(str(tmp_path / "tiny.toml"), sets).tables
    )
    assert run(*use.split()[2:]).returncode == 0


@pytest.mark.slow
def test_it_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    training(tmp_path)
    arguments = ("--micro-batch", "4,8", "--workers", "0")
    cold = [sys.executable, "-m", "bigrun", *words(*arguments)]
    process = subprocess.Popen(cold, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ledger, deadline = tmp_path / "out" / "trials.jsonl", time.monotonic() + 120
    while not any("outcome" in row["answer"] for row in read_lines(ledger)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    theirs = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert all_end(theirs), "a trial ends with the command"
    done = tune(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    trials = [line for line in done.stdout.splitlines() if line.startswith("trial ")]
    assert [line.endswith("(known)") for line in trials[:2]] == [True, False]


@pytest.mark.slow
def test_where_no_trial_succeeds_the_exit_code_is_1(tmp_path: Path) -> None:
    training(tmp_path, hardware={"activation_checkpointing": "full"})
    done = tune(tmp_path, "--plugin", "breaks:Harm", "--workers", "0", "--micro-batch", "8")
    assert done.returncode == 1
    assert "out-of-memory: " in done.stdout
    assert "no trial has succeeded" in done.stdout
    assert not (tmp_path / "out" / "tuned.toml").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--set", "data.path=nowhere"), "nowhere"),
        pytest.param(("--set", "data.path=empty"), "empty", marks=pytest.mark.slow),
        (("--set", "model.dept=3"), "did you mean 'depth'?"),
        pytest.param(("--micro-batch", "3"), "--micro-batch 3: would be another objective", marks=pytest.mark.slow),
        (("--micro-batch", "a"), "expected sizes from 1 on, separated by commas"),
        pytest.param(("--attention", "none-such"), "--attention none-such: no such plugin", marks=pytest.mark.slow),
        pytest.param(
            ("--compile", "true"), "--compile: no active plugin has an option `compile`", marks=pytest.mark.slow
        ),
    ],
)
def test_what_cannot_be_tuned_is_one_message(tmp_path: Path, more: tuple[str, ...], said: str) -> None:
    training(tmp_path)
    (tmp_path / "empty").mkdir()
    done = tune(tmp_path, *more)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_process_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    began = time.monotonic()
    answer = ask({"what": "none such"}, limit_seconds=0.1)
    assert answer.status == "timeout"
    assert "not finished after 0.1 s" in answer.message
    assert time.monotonic() - began < 5


def test_an_error_of_a_child_is_an_answer() -> None:
    answer = ask({"what": "none such"}, limit_seconds=60)
    assert (answer.status, answer.message) == ("error", "KeyError: 'none such'")


def test_a_process_that_the_kernel_has_ended_had_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, counts = tmp_path / "program", [3, 3, 3, 4]
    program.write_text("#!/bin/sh\necho words\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr("bigrun.tuner.isolation.sys.executable", str(program))
    monkeypatch.setattr("bigrun.tuner.isolation.ended_for_memory", lambda: counts.pop(0))
    killed, ended = ask({}, limit_seconds=60), ask({}, limit_seconds=60)
    assert killed.status == "crash"
    assert killed.message == "killed by SIGKILL, which the kernel does when memory runs out: words"
    assert ended.status == "out-of-memory"


def test_the_kernel_counts_what_it_ends(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("pgfault 12\noom_kill 3\n")
    assert ended_for_memory(tmp_path / "vmstat") == 3
    assert ended_for_memory(tmp_path / "none") == 0


TETHERED = """
import subprocess, sys, time
from bigrun.tuner.tether import tethered
order = tethered()
subprocess.Popen(["sleep", "60"])
print(order, repr(sys.stdin.read()), open("/proc/self/oom_score_adj").read().strip(), flush=True)
time.sleep(60)
"""


def test_a_process_ends_with_the_one_that_waits_for_it_and_so_does_what_it_has_started() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TETHERED],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout, process.stdin as order:
        order.write("do this\n")
        order.flush()
        assert process.stdout.readline() == "do this '' 1000\n"
        assert process.poll() is None
        (started,) = psutil.Process(process.pid).children()
        order.close()
        assert process.wait(timeout=5) == -signal.SIGKILL
        assert all_end([started])
