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

import pytest
import tomli
import warm
from training import Training, read_lines

from bigrun.activation import activate
from bigrun.config import Document, read_preset
from bigrun.tuner.isolation import ask

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
    (folder / "harm.py").write_text(HARM)
    return Training(folder, data=data, run={"max_steps": 3}, **tables)


def words(*more: str) -> list[str]:
    return ["tune", "tiny.toml", "--steps", "2", "--out", "out", *more]


def tune(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return warm.bigrun(folder, *words(*more))


@pytest.mark.slow
def test_memory_that_runs_out_and_a_crash_are_rows_and_not_the_end(tmp_path: Path) -> None:
    run = training(tmp_path)
    done = tune(tmp_path, "--plugin", "harm:Harm", "--workers", "0", "--json", "--micro-batch", "2,4,8")
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
    again = tune(tmp_path, "--plugin", "harm:Harm", "--workers", "0", "--json", "--micro-batch", "2,4,8")
    assert again.stderr.count("(known)") == 3
    assert json.loads(again.stdout)["trials"] == found["trials"]


@pytest.mark.slow
def test_what_it_recommends_is_a_part_of_a_preset(tmp_path: Path) -> None:
    run = training(tmp_path)
    done = tune(tmp_path, "--micro-batch", "4,8", "--workers", "0,1", "--inflate", "3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    trials = [line for line in lines if line.startswith("trial ")]
    assert 2 <= len(trials) <= 5
    assert "compute-bound" in done.stdout or "data-bound" in done.stdout
    fragment = tomli.loads((tmp_path / "out" / "tuned.toml").read_text())
    activate(Document("tuned.toml", "tuned", fragment))
    (use,) = [line for line in lines if line.startswith("use it ")]
    sets = [word for word in use.split()[2:] if word != "--set"]
    config, _ = activate(read_preset(str(tmp_path / "tiny.toml"), sets))
    assert config.data.micro_batch == fragment["data"]["micro_batch"]
    assert config.data.workers == fragment["data"]["workers"]
    assert config.hardware.pin_memory == fragment["hardware"]["pin_memory"]
    with (tmp_path / "out" / "trials.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(trials)
    assert run("--set", sets[0], "--set", sets[1]).returncode == 0


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
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = tune(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    trials = [line for line in done.stdout.splitlines() if line.startswith("trial ")]
    assert [line.endswith("(known)") for line in trials[:2]] == [True, False]


@pytest.mark.slow
def test_where_no_trial_succeeds_the_exit_code_is_1(tmp_path: Path) -> None:
    training(tmp_path, hardware={"activation_checkpointing": "full"})
    done = tune(tmp_path, "--plugin", "harm:Harm", "--workers", "0", "--micro-batch", "8")
    assert done.returncode == 1
    assert "out-of-memory: " in done.stdout
    assert "no trial has succeeded" in done.stdout
    assert not (tmp_path / "out" / "tuned.toml").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--set", "data.path=nowhere"), "nowhere"),
        (("--set", "model.dept=3"), "did you mean 'depth'?"),
        (("--micro-batch", "3"), "--micro-batch 3: would be another objective"),
        (("--micro-batch", "a"), "expected sizes separated by commas"),
        pytest.param(
            ("--attention", "none-such"), "--attention none-such: no plugin of that name", marks=pytest.mark.slow
        ),
        pytest.param(
            ("--compile", "true"), "--compile: no active plugin has an option `compile`", marks=pytest.mark.slow
        ),
    ],
)
def test_what_cannot_be_tuned_is_one_message(tmp_path: Path, more: tuple[str, ...], said: str) -> None:
    training(tmp_path)
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
