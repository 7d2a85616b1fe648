"""Bar 3: a kill during rename, rotation or delete. Never are there fewer verified checkpoints than two, and what the
killed process left is swept."""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from killing import begin, kill_at_random, rotate, rotate_and_die, rotate_for_ever, save, verified
from training import Training

from bigrun.checkpoint.layout import parse_step
from bigrun.checkpoint.retention import Policy
from bigrun.checkpoint.store import CheckpointStore

POLICY = Policy(keep_last=2, milestones_every_steps=20)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_bar_03_a_kill_at_any_change_of_a_rotation(tmp_path: Path) -> None:
    """What is to stay is whole at every moment; of the rest each is whole or gone."""
    template = CheckpointStore(tmp_path / "template")
    for step in (10, 20, 30, 40, 50):
        save(template, step)
    before_sweep = set()
    for at in itertools.count(1):
        store = CheckpointStore(tmp_path / f"{at:03d}")
        shutil.copytree(template.directory, store.directory)
        process = begin(rotate_and_die, store.directory, POLICY, at)
        process.join()
        left = verified(store.directory)
        before_sweep.add(tuple(left))
        assert left == store.steps(), "a damaged one has a name"
        assert left[-3:] == [20, 40, 50] or left[-4:] == [20, 30, 40, 50]
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        store.sweep()
        assert names(store.directory) == [f"step-{step:08d}" for step in left]
        rotate(CheckpointStore(store.directory), POLICY)
        assert verified(store.directory) == [20, 40, 50]
    assert at > 10
    assert before_sweep == {(10, 20, 30, 40, 50), (20, 30, 40, 50), (20, 40, 50)}


def kill_while_rotating(tmp_path: Path, kills: int) -> None:
    directory, log = tmp_path / "checkpoints", tmp_path / "log"
    log.touch()
    unhealthy = range(30, 100_000)  # the last healthy one is that of step 29
    last = 0
    for _ in range(kills):
        size = log.stat().st_size
        process = begin(rotate_for_ever, directory, POLICY, last + 1, unhealthy, log)
        reported = kill_at_random(process, log, size, 0.08)
        before = verified(directory)
        assert before[-1] in (reported, reported + 1)
        assert len(before) >= min(2, reported)
        assert set(before) >= {*range(20, reported + 1, 20), *({29} if reported >= 29 else ())}
        CheckpointStore(directory).sweep()
        assert all(parse_step(name) is not None for name in names(directory))
        assert set(verified(directory)) >= set(before)
        last = verified(directory)[-1]
    assert last > kills


def test_bar_03_kills_at_random_times_of_saves_and_rotations(tmp_path: Path) -> None:
    kill_while_rotating(tmp_path, kills=12)


@pytest.mark.slow
def test_bar_03_a_hundred_kills_at_random_times(tmp_path: Path) -> None:
    kill_while_rotating(tmp_path, kills=100)


@pytest.mark.slow
def test_bar_03_a_training_that_is_killed_again_and_again_while_it_rotates(tmp_path: Path) -> None:
    """`bigrun run` with checkpoints in the background and a rotation after every step."""
    rotation = {"checkpoint-rotation": {"keep_last": 2, "milestones_every_steps": 10}}
    training = Training(tmp_path, run={"max_steps": 1_000_000, "checkpoint_every_steps": 1}, plugins=rotation,
        optimizer={"warmup_steps": 0, "freeze_last_layer_steps": 0},
        objective={"teacher_temperature_warmup_steps": 0},
    )  # fmt: skip
    checkpoints = training.run / "checkpoints"
    last = 0
    for _ in range(8):
        with training.begun(step=last + 5) as process:
            time.sleep(random.uniform(0, 0.3))
            process.kill()
            process.wait()
        store = CheckpointStore(checkpoints)
        left = store.verified_steps()
        assert len(left) >= 2
        assert left == store.steps()
        assert left[-1] > last
        assert set(left) >= set(range(10, left[-1] - 1, 10))
        last = left[-1]
    training.configure(run={"max_steps": last + 3, "checkpoint_every_steps": 1}, plugins=rotation)
    done = training()
    assert done.returncode == 0, done.stderr
    assert all(parse_step(name) is not None for name in names(checkpoints))
    assert {event["facts"]["removed_step"] for event in training.events("checkpoint-removed")}.isdisjoint(
        range(10, last + 3, 10)
    )
