"""When a checkpoint is due, what a step waits for, and what is said of one."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from bigrun import hookimpl
from bigrun.checkpoint import manifest
from bigrun.checkpoint.store import CheckpointStore
from bigrun.saver import Saver
from bigrun.testing.runner import Runner, RunResult

BACKGROUND = pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])


class Story:
    """Which checkpoint was announced in which step, and the weights after each step."""

    def __init__(self) -> None:
        self.announced: dict[int, int] = {}
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        self.activities: set[str] = set()
        self.times: list[Any] = []

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        self.weights[step] = {k: v.detach().clone() for k, v in run.objective.parts()["student"].state_dict().items()}
        self.activities.add(run.activity)

    @hookimpl
    def on_checkpoint(self, run: Any, step: int, path: Path) -> None:
        assert manifest.verify(path) == []
        self.announced[step] = run.step
        self.times.append(run.saver.times)


def test_due_by_cadence_or_by_request() -> None:
    saver = Saver(3, background=False)
    assert [step for step in range(1, 8) if saver.due(step)] == [3, 6]
    saver.request("a milestone")
    assert saver.due(4)


def test_requests_make_one_checkpoint_each_step(bigrunner: Runner) -> None:
    class Asks:
        @hookimpl
        def after_step(self, run: Any, step: int) -> None:
            if step in (2, 3):
                run.request_checkpoint("wanted")
                run.request_checkpoint("wanted twice")

    result = bigrunner.run(steps=5, run={"checkpoint_every_steps": 3}, companions=[Asks()])
    assert result.checkpoints == [2, 3, 5]
    assert result.hooks.names().count("on_checkpoint") == 3


class SlowDisk:
    """The thread has something else to do before it writes, so that the next step is over by then."""

    @hookimpl
    def after_step(self, run: Any) -> None:
        run.saver._writer.submit(time.sleep, 0.1)


@BACKGROUND
def test_a_checkpoint_is_the_state_after_its_step(bigrunner: Runner, background: bool) -> None:
    """Whatever the steps do to the networks while it is written."""
    story = Story()
    run = {"background_checkpoints": background, "checkpoint_every_steps": 2}
    result = bigrunner.run(steps=6, run=run, companions=[story, SlowDisk()])
    result.assert_finished()
    store = CheckpointStore(result.directory / "checkpoints")
    assert store.verified_steps() == [2, 4, 6]
    for step in (2, 4, 6):
        saved = store.load_tensors(store.path(step), "student")
        assert all(torch.equal(saved[name], tensor) for name, tensor in story.weights[step].items()), step
        assert store.load_facts(store.path(step), "state")["position"] == 4 * step
    assert story.activities == {"observe"}


@BACKGROUND
def test_every_checkpoint_is_announced_once_and_in_order(bigrunner: Runner, background: bool) -> None:
    story = Story()
    bigrunner.run(steps=6, run={"background_checkpoints": background}, companions=[story]).assert_finished()
    assert list(story.announced) == [1, 2, 3, 4, 5, 6]
    if not background:
        assert story.announced == {step: step for step in range(1, 7)}
    assert all(step <= at <= step + 1 or at == 6 for step, at in story.announced.items())


@BACKGROUND
def test_times_of_a_save(bigrunner: Runner, background: bool) -> None:
    story = Story()
    bigrunner.run(steps=4, run={"background_checkpoints": background}, companions=[story])
    for times in story.times:
        assert times.stall_seconds > 0
        assert times.total_seconds > 0
        if not background:
            assert times.stall_seconds >= times.total_seconds * 0.5, "in the foreground training stands still"


def test_background_and_foreground_are_the_same_run(bigrunner: Runner) -> None:
    one, other = (bigrunner.run(steps=4, run={"background_checkpoints": b}) for b in (True, False))
    for step in (1, 2, 3, 4):
        files = [manifest.read(r.directory / "checkpoints" / f"step-{step:08d}").files for r in (one, other)]
        states = [{n: f for n, f in of.items() if n not in ("config.toml", "provenance.json")} for of in files]
        assert states[0] == states[1]


def test_an_error_while_one_is_written_leaves_a_whole_checkpoint_or_none(bigrunner: Runner, tmp_path: Path) -> None:
    class Breaks:
        @hookimpl
        def before_step(self, step: int) -> None:
            if step == 3:
                raise ValueError("broken")

    run = {"background_checkpoints": True, "max_steps": 5}
    with pytest.raises(ValueError, match="broken"):
        bigrunner.run(directory=tmp_path / "run", run=run, companions=[Breaks()])
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    assert store.verified_steps() == store.steps() == [1, 2]
    assert store.sweep() == []


class Large:
    """Brings a frozen network of 96 MB."""

    @hookimpl
    def frozen_modules(self) -> dict[str, torch.nn.Module]:
        module = torch.nn.Module()
        module.register_buffer("w", torch.ones(24_000_000))
        return {"large": module}


@contextmanager
def little_memory(more_bytes: int) -> Iterator[None]:
    """This process may have so many bytes more than it has (setrlimit(2), RLIMIT_AS), and the blocks of twice as many
    bytes that its heap has kept of earlier tests are taken."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + more_bytes, before[1]))
    taken = []
    try:
        with suppress(RuntimeError):
            while True:
                taken.append(torch.empty(2 * more_bytes, dtype=torch.uint8))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def without_memory(bigrunner: Runner) -> RunResult:
    """Step 2 finds no memory for the copy."""
    limits: list[Any] = []

    class Tight:
        @hookimpl
        def after_step(self, step: int) -> None:
            if step == 2:
                limits.append(little_memory(32 << 20))
                limits[0].__enter__()

        @hookimpl(tryfirst=True)
        def on_event(self, event: Any) -> None:
            if event.kind == "checkpoint-in-foreground":
                limits.pop().__exit__(None, None, None)

    run = {"background_checkpoints": True, "checkpoint_every_steps": 2, "max_steps": 5}
    try:
        return bigrunner.run(run=run, companions=[Large(), Tight()])
    finally:
        for limit in limits:
            limit.__exit__(None, None, None)


def test_without_memory_for_the_copy_training_waits_for_the_disk(without_memory: RunResult) -> None:
    without_memory.assert_finished()
    (event,) = [event for event in without_memory.events if event.kind == "checkpoint-in-foreground"]
    assert (event.level, event.step) == ("warning", 2)
    assert "no memory for a copy of the state (96.5 MB)" in event.message
    assert "run.background_checkpoints = false" in event.message
    store = CheckpointStore(without_memory.directory / "checkpoints")
    assert store.verified_steps() == [2, 4, 5]
