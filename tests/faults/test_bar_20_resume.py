"""Bars 20 and 21: stopped at step k and continued, a run is the straight one bit for bit: networks, moving average,
optimizer, centres, queue, frozen teachers, place in the data, metrics that wait, plugins' states, rows of the log. For
k in the middle of an epoch, at its end, first and last; however it was stopped, whatever decodes the images then."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from acting import StopAt, events, same_state
from endless import ENDLESS, Diary, begin_training, wait_for
from training import Training

from bigrun.errors import ExitCode
from bigrun.testing.runner import TINY, Runner, RunResult
from bigrun.throughput import TIMINGS

# Twelve images, four in a step: an epoch ends with every third.
STEPS = 7
RUN: Mapping[str, Any] = {
    "max_steps": STEPS, "checkpoint_every_steps": 3, "log_every_steps": 2, "background_checkpoints": True,
}  # fmt: skip
GRAM = {"snapshot_step": 1, "start_step": 3, "ramp_steps": 1, "refresh_every_steps": 2}
VARIANTS: Mapping[str, dict[str, Any]] = {
    "sinkhorn": {},
    "softmax-centre": {"objective": {**TINY["objective"], "centring": "softmax"}},
    "queue": {"objective": {**TINY["objective"], "queue_steps": 2}},
    "koleo": {"objective": {**TINY["objective"], "koleo_weight": 0.1, "koleo_group": 4}},
    "accumulation": {"accumulate": 2},
    "foreground": {"run": {**RUN, "background_checkpoints": False}},
    "gram-anchoring": {"plugins": ("gram-anchoring", "metrics-log"), "config": GRAM},
}


def train(bigrunner: Runner, variant: str, **more: Any) -> RunResult:
    arguments = {"plugins": ("metrics-log",), "run": RUN, **VARIANTS[variant], **more}
    return bigrunner.run(*arguments.pop("plugins"), **arguments)


def rows(directory: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in lines]


def assert_same(resumed: RunResult, straight: RunResult) -> None:
    resumed.assert_finished()
    assert same_state(resumed, straight, STEPS)
    assert rows(resumed.directory) == rows(straight.directory) == straight.metrics
    assert resumed.run is not None
    assert resumed.run.position == STEPS * 4


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return train(Runner(tmp_path_factory.mktemp("straight")), "sinkhorn")


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6, STEPS])
def test_bar_20_stopped_at_any_step(bigrunner: Runner, straight: RunResult, k: int) -> None:
    stopped = train(bigrunner, "sinkhorn", companions=[StopAt(k)])
    assert stopped.exit_code == (ExitCode.FINISHED if k == STEPS else ExitCode.STOPPED)
    assert stopped.checkpoints[-1] == k
    resumed = train(bigrunner, "sinkhorn", directory=stopped.directory)
    assert ("before_step" in resumed.hooks.names()) == (k < STEPS)
    assert_same(resumed, straight)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "sinkhorn"])
def test_bar_20_whatever_has_a_state(bigrunner: Runner, variant: str) -> None:
    straight = train(bigrunner, variant)
    stopped = train(bigrunner, variant, companions=[StopAt(4)])
    assert stopped.exit_code == ExitCode.STOPPED
    assert_same(train(bigrunner, variant, directory=stopped.directory), straight)


def test_bar_20_stopped_after_every_step(bigrunner: Runner, tmp_path: Path) -> None:
    straight = train(bigrunner, "softmax-centre")
    for k in range(1, STEPS):
        stopped = train(bigrunner, "softmax-centre", directory=tmp_path / "run", companions=[StopAt(k)])
        assert stopped.exit_code == ExitCode.STOPPED
    assert_same(train(bigrunner, "softmax-centre", directory=tmp_path / "run"), straight)


def test_bar_20_killed_while_it_trains(bigrunner: Runner, tmp_path: Path) -> None:
    options = {"checkpoint_every_steps": 2, "max_steps": 14}
    settings: dict[str, Any] = {
        "run": {**ENDLESS, **options}, "objective": {"teacher_temperature_warmup_steps": 0},
    }  # fmt: skip
    straight = bigrunner.run(**settings)
    process = begin_training(tmp_path / "run", tmp_path / "log", **options)
    wait_for(tmp_path / "log", "step", 4, process)
    process.kill()
    process.join()
    assert Diary.last(tmp_path / "log", "step") < 14, "it was too fast to be killed"
    resumed = bigrunner.run(directory=tmp_path / "run", **settings)
    resumed.assert_finished()
    assert events(resumed, "resumed")
    assert same_state(resumed, straight, 14)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # torch, of a machine with two cores
def test_bar_21_other_workers_and_prefetch(bigrunner: Runner, straight: RunResult, tmp_path: Path) -> None:
    for k, data in ((2, {"workers": 0}), (4, {"workers": 2, "prefetch": 1}), (None, {"workers": 4, "prefetch": 3})):
        companions = [] if k is None else [StopAt(k)]
        result = train(bigrunner, "sinkhorn", directory=tmp_path / "run", data=data, companions=companions)
    assert_same(result, straight)
    assert any("data.workers: 2 -> 4" in event.message for event in events(result, "config-changed"))


# -- the command ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bar_20_the_command_killed_again_and_again(tmp_path: Path) -> None:
    """kill -9 at whatever moment, several times; with the background writer, workers, the log and rotation."""
    training = Training(tmp_path)
    tables: dict[str, Any] = {"run": {"max_steps": 60, "checkpoint_every_steps": 3, "log_every_steps": 2},
        "data": {"workers": 1}, "plugins": {"checkpoint-rotation": {}}}  # fmt: skip
    training.configure(**tables)
    assert training("--run-dir", "runs/straight").returncode == 0
    for step in (4, 17, 30, 44):
        with training.begun(step=step) as process:
            time.sleep(0.1)
            process.kill()
    done = training()
    assert done.returncode == 0, done.stderr
    straight = tmp_path / "runs" / "straight"
    assert rows(training.run) == rows(straight)
    assert [row["step"] for row in rows(training.run)] == list(range(2, 61, 2))
    last = "checkpoints/step-00000060"
    for path in (straight / last).iterdir():
        if path.name not in ("MANIFEST.json", "provenance.json"):  # which have times and commands
            assert (training.run / last / path.name).read_bytes() == path.read_bytes(), path.name
