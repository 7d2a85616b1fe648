"""A run that begins at another run's checkpoint, and the cool-down that it is for."""

from __future__ import annotations

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import NETWORK

from bigrun import hookimpl
from bigrun.branch import BRANCH
from bigrun.checkpoint.tensors import load_tensors
from bigrun.errors import CheckpointError, RunDirectoryError, UsageError
from bigrun.run import Run
from bigrun.session import run_training
from bigrun.testing.recorder import Recorder
from bigrun.testing.runner import Runner, RunResult, SyntheticImages

CONSTANT: dict[str, dict[str, Any]] = {
    "run": {"max_steps": False},
    "objective": {"teacher_temperature_warmup_steps": 2},
    "optimizer": {"warmup_steps": 2, "weight_decay": 0.1},
}
COOLED: dict[str, dict[str, Any]] = {
    **CONSTANT,
    "run": {"max_steps": 10},
    "schedule": {"cooldown_steps": 4, "cooldown_form": "linear"},
}
GRAM = {"snapshot_step": 1, "start_step": 3, "ramp_steps": 1, "refresh_every_steps": 2}


class StopAtEight:
    @hookimpl
    def after_step(self, run: Run, step: int) -> None:
        if step == 8:
            run.request_stop("test")


def files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def checkpoint(directory: Path, step: int) -> Path:
    return directory / "checkpoints" / f"step-{step:08d}"


def endless(bigrunner: Runner, *plugins: str) -> RunResult:
    """A run without end, stopped after step 8, with a checkpoint of every step."""
    config = GRAM if plugins else None
    result = bigrunner.run(*plugins, config=config, companions=[StopAtEight()], accumulate=2, **CONSTANT)
    assert result.error is None, result.error
    assert result.checkpoints == list(range(1, 9))
    return result


def branch(
    bigrunner: Runner, source: Path, *plugins: str, directory: Path | None = None, **tables: dict[str, Any]
) -> tuple[Run, Recorder]:
    document = bigrunner.document(dict.fromkeys(plugins, GRAM), accumulate=2, **{**COOLED, **tables})
    recorder = Recorder(SyntheticImages())
    directory = directory or bigrunner.tmp_path / "branch"
    run, _ = run_training(document, directory, source=source, companions={"recorder": recorder})
    return run, recorder


def assert_same_state(one: Path, other: Path) -> None:
    """Student, teacher, optimizer and frozen networks, bit for bit."""
    for stem in ("student", "teacher", "optimizer", "frozen"):
        mine, theirs = load_tensors(one, stem), load_tensors(other, stem)
        assert mine.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.equal(mine[name], tensor), name


@pytest.mark.parametrize("plugins", [(), ("gram-anchoring",)])
def test_a_cooldown_from_a_checkpoint_equals_the_run_that_had_it_from_the_start(
    bigrunner: Runner, plugins: tuple[str, ...]
) -> None:
    """Bit for bit, beside the run and in its place."""
    straight = bigrunner.run(*plugins, config=GRAM if plugins else None, accumulate=2, **COOLED)
    straight.assert_finished()
    old = endless(bigrunner, *plugins)
    before = files(old.directory)

    run, recorder = branch(bigrunner, checkpoint(old.directory, 6), *plugins)
    assert recorder.losses == straight.losses[6:]
    assert recorder.metrics == straight.metrics[6:]
    assert_same_state(checkpoint(run.directory, 10), checkpoint(straight.directory, 10))
    assert files(old.directory) == before

    continued = bigrunner.resume(old, 6, run={"max_steps": 10}, schedule=COOLED["schedule"])
    continued.assert_finished()
    assert_same_state(checkpoint(continued.directory, 10), checkpoint(straight.directory, 10))


def test_the_branch_begins_with_the_whole_state_and_says_where_it_comes_from(bigrunner: Runner) -> None:
    old = endless(bigrunner, "gram-anchoring")
    source = checkpoint(old.directory, 6)
    run, recorder = branch(bigrunner, source, "gram-anchoring")
    own = checkpoint(run.directory, 6)
    assert_same_state(own, source)
    states = [json.loads((path / "state.json").read_text()) for path in (own, source)]
    assert states[0] == states[1]
    assert (own / "config.toml").read_text() == (run.directory / "config.toml").read_text()
    (event,) = [e for e in recorder.events if e.kind == "branched"]
    assert (event.message, event.step) == (f"branched from {source} after step 6", 6)
    assert not [e for e in recorder.events if e.kind == "resumed"]
    assert "schedule.cooldown_steps: absent -> 4" in " ".join(e.message for e in recorder.events)
    assert run.header[0].endswith(f"branch (branched after step 6, from {source})")


@pytest.mark.parametrize(
    "form", ["sqrt", *(pytest.param(form, marks=pytest.mark.slow) for form in ("linear", "cosine"))]
)
def test_the_learning_rate_of_every_step_is_that_of_the_formula(bigrunner: Runner, form: str) -> None:
    old = endless(bigrunner)
    schedule = {"cooldown_steps": 4, "cooldown_form": form}
    run, recorder = branch(bigrunner, checkpoint(old.directory, 5), schedule=schedule)
    peak = 1e-3 * 4 * math.sqrt(4 / 1024)
    left = {
        "linear": lambda x: 1 - x,
        "sqrt": lambda x: 1 - math.sqrt(x),
        "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
    }[form]
    expected = {step: peak * (0.001 + 0.999 * left(max(step - 6, 0) / 4)) for step in range(6, 11)}
    assert {row["step"]: row["learning_rate"] for row in recorder.metrics} == pytest.approx(expected)
    for name in ("weight_decay", "teacher_momentum", "teacher_temperature", "local_weight"):
        assert len({row[name] for row in (*old.metrics[2:], *recorder.metrics)}) == 1, name
    assert run.step == 10


# -- where it may begin ---------------------------------------------------------------------------------------


def test_a_directory_that_did_not_begin_there_is_refused_and_left(bigrunner: Runner) -> None:
    old, other = endless(bigrunner), bigrunner.run(accumulate=2, **COOLED)
    before = files(other.directory)
    source = checkpoint(old.directory, 6)
    with pytest.raises(RunDirectoryError, match="has checkpoints of its own: choose a new directory with --run-dir"):
        branch(bigrunner, source, directory=other.directory)
    with pytest.raises(RunDirectoryError, match="has checkpoints of its own"):
        branch(bigrunner, source, directory=old.directory)
    assert files(other.directory) == before
    branch(bigrunner, source)
    with pytest.raises(RunDirectoryError, match=r"has checkpoints that come from .*step-00000006"):
        branch(bigrunner, checkpoint(old.directory, 7))


def test_the_same_command_again_continues_the_branch_also_when_its_origin_is_gone(bigrunner: Runner) -> None:
    old = endless(bigrunner)
    source = checkpoint(old.directory, 6)
    run, _ = branch(bigrunner, source)
    moved = old.directory.rename(bigrunner.tmp_path / "moved")
    for origin in (source, checkpoint(moved, 6)):
        for step in (9, 10):
            shutil.rmtree(checkpoint(run.directory, step), ignore_errors=True)
        again, recorder = branch(bigrunner, origin)
        assert [row["step"] for row in recorder.metrics] == [9, 10]
        assert [e.kind for e in recorder.events if e.kind in ("resumed", "branched")] == ["resumed"]
    shutil.rmtree(checkpoint(moved, 6))
    with pytest.raises(RunDirectoryError):
        branch(bigrunner, checkpoint(moved, 6))
    assert again.step == 10


def test_a_damaged_origin_is_refused_before_anything_is_made(bigrunner: Runner) -> None:
    old = endless(bigrunner)
    old.damage(6, "optimizer")
    with pytest.raises(CheckpointError, match=r"the checkpoint is damaged: optimizer\.safetensors"):
        branch(bigrunner, checkpoint(old.directory, 6))
    assert not (bigrunner.tmp_path / "branch").exists()


def test_a_schedule_that_does_not_go_on_from_where_it_was_is_a_warning(bigrunner: Runner) -> None:
    """A cosine has fallen already; the cool-down begins at the peak. Gram anchoring's own changes are no jump."""
    falling = {"run": {"max_steps": 12}, "objective": COOLED["objective"], "optimizer": COOLED["optimizer"]}
    falling["teacher"] = {"momentum": 0.99, "momentum_end": 0.99}
    old = bigrunner.run(companions=[StopAtEight()], **falling)
    run, recorder = branch(bigrunner, checkpoint(old.directory, 7), teacher=falling["teacher"])
    jumps = {e.facts["schedule"]: e for e in recorder.events if e.kind == "schedule-jump"}
    assert jumps.keys() == {"learning_rate", "last_layer_learning_rate"}
    event = jumps["learning_rate"]
    assert event.level == "warning"
    assert run.config.optimizer.warmup_steps == 2
    peak = run.schedules.at(3)["learning_rate"]
    assert event.facts["now"] == run.schedules.at(7)["learning_rate"] == pytest.approx(0.75 * peak, rel=0.01)
    assert event.facts["before"] < 0.6 * peak
    assert f"was {event.facts['before']:.4g} in step 7" in event.message


def test_where_the_schedules_go_on_nothing_is_said_of_them(bigrunner: Runner) -> None:
    old = endless(bigrunner, "gram-anchoring")
    _, recorder = branch(bigrunner, checkpoint(old.directory, 6), "gram-anchoring")
    assert [e.kind for e in recorder.events if e.kind in ("branched", "schedule-jump")] == ["branched"]


def test_a_branch_that_dies_before_its_next_checkpoint_says_the_same_again(bigrunner: Runner) -> None:
    """The jump is true still; what Gram anchoring changes in the step that the state is of is none."""

    class PowerCut:
        @hookimpl
        def after_step(self, run: Run, step: int) -> None:
            raise KeyboardInterrupt

    old = endless(bigrunner, "gram-anchoring")
    tables = {**COOLED, "optimizer": {**COOLED["optimizer"], "base_lr": 1e-4}}
    tables["run"] = {"max_steps": 10, "checkpoint_every_steps": 9}
    said: list[list[str]] = []
    for _ in range(2):
        recorder = Recorder(SyntheticImages())
        with pytest.raises(KeyboardInterrupt):
            run_training(
                bigrunner.document({"gram-anchoring": GRAM}, accumulate=2, **tables), bigrunner.tmp_path / "branch",
                source=checkpoint(old.directory, 6), companions={"recorder": recorder, "cut": PowerCut()},
            )  # fmt: skip
        said.append([e.facts["schedule"] for e in recorder.events if e.kind == "schedule-jump"])
    assert said == 2 * [["learning_rate", "last_layer_learning_rate"]]


@pytest.mark.parametrize(
    ("name", "tables", "message"),
    [
        ("checkpoints", {}, r"no checkpoint \(it has no MANIFEST\.json\)"),
        ("nothing", {}, "--from .*nothing: no such directory"),
        ("checkpoints/step-00000006", {"run": {"max_steps": 6}}, "is of step 6 and the run ends at run.max_steps = 6"),
        ("checkpoints/step-00000006", {"model": {"depth": 3}}, "model.depth: 2 -> 3"),
    ],
)
def test_what_cannot_be_branched_is_one_message_and_leaves_nothing(
    bigrunner: Runner, name: str, tables: dict[str, Any], message: str
) -> None:
    old = endless(bigrunner)
    with pytest.raises(UsageError, match=message):
        branch(bigrunner, old.directory / name, **{k: {**COOLED.get(k, {}), **v} for k, v in tables.items()})
    assert not (bigrunner.tmp_path / "branch").exists()


def test_a_critical_plugin_may_not_vanish_on_the_way(bigrunner: Runner) -> None:
    old = endless(bigrunner, "gram-anchoring")
    with pytest.raises(RunDirectoryError, match="--drop-plugin gram-anchoring"):
        branch(bigrunner, checkpoint(old.directory, 6))
    assert not (bigrunner.tmp_path / "branch").exists()


# -- as a user types it ---------------------------------------------------------------------------------------

PRESET = (
    """
[run]
log_every_steps = 1
checkpoint_every_steps = 2
[data]
path = "images"
effective_batch = 4
workers = 0
"""
    + NETWORK
    + """\
teacher_temperature_warmup_steps = 2
[optimizer]
warmup_steps = 0
freeze_last_layer_steps = 0
[hardware]
device = "cpu"
threads = 1
precision = "fp32"
[plugins.console]
[plugins.metrics-log]
"""
)

# Ends the process as a power cut does, once, at the moment that the environment names.
KILLER = """
import os, pathlib, signal
from bigrun import hookimpl


class Killer:
    observer = True

    def die(self, moment):
        if os.environ.get("DIE") == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    @hookimpl
    def after_step(self, step):
        self.die(f"step {step}")

    def state_dict(self):
        self.die("save")
        return {}

    def load_state_dict(self, state):
        pass
"""


@pytest.fixture
def folder(bigrunner: Runner) -> Path:
    """A working directory with images, a preset and a run of 4 steps."""
    (bigrunner.tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(10):
        pixels = rng.integers(0, 255, (40 + i, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(bigrunner.tmp_path / "images" / f"{i}.png")
    (bigrunner.tmp_path / "tiny.toml").write_text(PRESET, encoding="utf-8")
    (bigrunner.tmp_path / "killer.py").write_text(KILLER, encoding="utf-8")
    return bigrunner.tmp_path


# Each step's checkpoint is published before the next one, in which the run dies.
KILLED = ("run", "tiny.toml", "--plugin", "killer:Killer", "--set", "run.background_checkpoints=false")
BRANCHED = ("--from", "runs/tiny/checkpoints/step-00000004", "--run-dir", "runs/cool")
COOL = ("--set", "run.max_steps=9", "--set", "schedule.cooldown_steps=4", "--set", "schedule.cooldown_form=sqrt")


def learning_rates(run: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len({row["step"] for row in rows}) == len(rows)
    return {row["step"]: row["learning_rate"] for row in rows}


@pytest.mark.slow
def test_a_branch_that_is_killed_twice_ends_like_the_run_that_had_its_cooldown_from_the_start(
    bigrunner: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(*arguments: str, die: str = "") -> Any:
        monkeypatch.setenv("DIE", die)
        return bigrunner.cli(*KILLED, *arguments)

    assert command(die="step 5").returncode == -signal.SIGKILL  # without end
    before = files(folder / "runs" / "tiny")
    assert command(*BRANCHED, *COOL, die="save").returncode == -signal.SIGKILL
    assert (folder / "runs" / "cool" / BRANCH).is_file()
    forgotten = command(*BRANCHED[2:], *COOL)
    assert forgotten.returncode == 2
    assert "was cut short before it had: add --from" in forgotten.stderr

    assert command(*BRANCHED, *COOL, die="step 7").returncode == -signal.SIGKILL
    done = command(*BRANCHED, *COOL)
    assert done.returncode == 0, done.stderr
    assert "runs/cool (resumed after step 6, from runs/cool/checkpoints/step-00000006)" in done.stdout
    events = [json.loads(line) for line in (folder / "runs" / "cool" / "events.jsonl").read_text().splitlines()]
    assert [e["message"] for e in events if e["kind"] == "branched"] == [
        "branched from runs/tiny/checkpoints/step-00000004 after step 4"
    ] * 2
    assert files(folder / "runs" / "tiny") == before

    peak = 1e-3 * 4 * math.sqrt(4 / 1024)
    cooled = {step: peak * (1 - 0.999 * math.sqrt((step - 5) / 4)) for step in (5, 6, 7, 8, 9)}
    assert learning_rates(folder / "runs" / "cool") == pytest.approx(cooled)
    assert command("--run-dir", "runs/straight", *COOL).returncode == 0
    assert_same_state(checkpoint(folder / "runs" / "cool", 9), checkpoint(folder / "runs" / "straight", 9))


@pytest.mark.slow
def test_the_cooldown_in_place_is_two_options_of_the_same_command(
    bigrunner: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIE", "step 5")
    assert bigrunner.cli(*KILLED).returncode == -signal.SIGKILL
    monkeypatch.setenv("DIE", "")
    done = bigrunner.cli(*KILLED, *COOL)
    assert done.returncode == 0, done.stderr
    for change in ("run.max_steps: absent -> 9", "schedule.cooldown_steps: absent -> 4"):
        assert f"since the checkpoint: {change}" in done.stdout
    assert sorted(learning_rates(folder / "runs" / "tiny")) == list(range(1, 10))
