"""Bars 1, 2 and 4: kill -9 at random times during saves. What has a name verifies, at every moment; what was said to be
saved is there; a step that was saved again is the old or the new one, never a mix."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from endless import Diary, begin_training, wait_for
from killing import begin, kill_at_random

from bigrun.checkpoint import manifest
from bigrun.checkpoint.layout import parse_step
from bigrun.checkpoint.store import CheckpointStore

STEMS = ("student", "optimizer")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files on another file system than the run's."""
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no file system of its own")
    with tempfile.TemporaryDirectory(dir=shared_memory) as folder:
        yield Path(folder)


def save(store: CheckpointStore, step: int, value: int) -> None:
    """A checkpoint whose every file tells its value."""
    tensors = {stem: {"w": torch.full((20_000,), float(value))} for stem in STEMS}
    store.save(step, tensors, {"state": {"value": value}}, f"value = {value}\n")


def save_for_ever(directory: Path, first: int, log: Path, environment: dict[str, str]) -> None:
    """One step after the other; the third from last is removed."""
    os.environ.update(environment)
    store = CheckpointStore(directory)
    with log.open("a", buffering=1) as lines:
        for value in range(first, sys.maxsize):
            save(store, value, value)
            lines.write(f"{value}\n")
            for old in store.steps()[:-2]:
                store.delete(old)


def save_again_for_ever(directory: Path, first: int, log: Path, environment: dict[str, str]) -> None:
    """The same step again and again."""
    store = CheckpointStore(directory)
    with log.open("a", buffering=1) as lines:
        for value in range(first, sys.maxsize):
            save(store, 1, value)
            lines.write(f"{value}\n")


def amend_for_ever(directory: Path, first: int, log: Path, environment: dict[str, str]) -> None:
    """Other facts beside the same tensors, as after a roll back."""
    store = CheckpointStore(directory)
    if not store.steps():
        save(store, 1, 0)
    with log.open("a", buffering=1) as lines:
        for value in range(first, sys.maxsize):
            store.amend(1, {"state": {"value": value}})
            lines.write(f"{value}\n")


def value_of(store: CheckpointStore, path: Path, same_tensors: bool) -> int:
    """Of a checkpoint that verifies and whose files agree."""
    assert manifest.verify(path) == []
    value: int = store.load_facts(path, "state")["value"]
    written = 0 if same_tensors else value
    for stem in STEMS:
        assert torch.equal(store.load_tensors(path, stem)["w"], torch.full((20_000,), float(written)))
    assert (path / "config.toml").read_text() == f"value = {written}\n"
    return value


def kill_again_and_again(
    folder: Path, kills: int, target: Callable[..., None], environment: dict[str, str] | None = None
) -> None:
    store, log = CheckpointStore(folder / "checkpoints"), folder / "log"
    log.touch()
    value = 0
    for _ in range(kills):
        size = log.stat().st_size
        process = begin(target, store.directory, value + 1, log, environment or {})
        reported = kill_at_random(process, log, size, 0.06)
        for step in store.steps():  # before anything is swept
            assert manifest.verify(store.path(step)) == []
        store.sweep()
        assert all(parse_step(path.name) is not None for path in store.directory.iterdir())
        value = value_of(store, store.path(store.steps()[-1]), target is amend_for_ever)
        assert value in (reported, reported + 1)


def test_bar_01_fifty_kills_during_saves(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 50, save_for_ever)


def test_bar_02_kills_during_saves_with_temporary_files_on_another_disk(tmp_path: Path, elsewhere: Path) -> None:
    kill_again_and_again(tmp_path, 15, save_for_ever, {"TMPDIR": str(elsewhere)})
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("target", [save_again_for_ever, amend_for_ever])
def test_bar_04_kills_while_a_step_is_saved_again(tmp_path: Path, target: Callable[..., None]) -> None:
    kill_again_and_again(tmp_path, 10, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", [save_again_for_ever, amend_for_ever])
def test_bar_04_a_hundred_kills_while_a_step_is_saved_again(tmp_path: Path, target: Callable[..., None]) -> None:
    kill_again_and_again(tmp_path, 100, target)


# -- a training that writes its checkpoints while it goes on ------------------------------------------------------


def kill_trainings(folder: Path, kills: int, every: int, environment: dict[str, str] | None = None) -> None:
    """Each goes on where the one before was killed."""
    directory, log = folder / "run", folder / "log"
    store = CheckpointStore(directory / "checkpoints")
    newest = 0
    for _ in range(kills):
        said = Diary.last(log, "saved")
        process = begin_training(directory, log, environment, checkpoint_every_steps=every)
        wait_for(log, "saved", said, process)
        time.sleep(random.uniform(0, 0.12))
        process.kill()
        process.join()
        for step in store.steps():
            assert manifest.verify(store.path(step)) == []
        taken, said = Diary.last(log, "step"), Diary.last(log, "saved")
        begun = taken - 1 - (taken - 1) % every  # the save after `taken` may not have begun
        assert store.steps()[-1] >= max(newest, said, begun - every), "more is lost than the save that was going on"
        newest = store.steps()[-1]


@pytest.mark.slow
def test_bar_01_kills_of_a_training_that_saves_in_the_background(tmp_path: Path) -> None:
    kill_trainings(tmp_path, 8, every=1)


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 3])
def test_bar_01_fifty_kills_of_a_training_that_saves_in_the_background(tmp_path: Path, every: int) -> None:
    kill_trainings(tmp_path, 50, every)


@pytest.mark.slow
def test_bar_02_fifty_kills_of_a_training_with_temporary_files_on_another_disk(tmp_path: Path, elsewhere: Path) -> None:
    kill_trainings(tmp_path, 50, 1, {"TMPDIR": str(elsewhere)})
    left = [path.name for path in elsewhere.iterdir()]
    assert [name for name in left if not name.startswith("torchinductor_")] == []  # a cache of torch's own
