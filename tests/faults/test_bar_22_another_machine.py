"""Bar 22: a checkpoint of another device, another number of processes or threads, another torch. The run goes on with
the same images in the same order and the same schedules, and says what is another one now."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from acting import StopAt, events

from bigrun import hookimpl
from bigrun.checkpoint.store import CheckpointStore
from bigrun.errors import ExitCode
from bigrun.machine import machine_changes
from bigrun.testing.runner import Runner, RunResult


class Order:
    """The images of every step, as (epoch, index), and the learning rate."""

    def __init__(self) -> None:
        self.images: dict[int, list[tuple[int, int]]] = {}
        self.rates: dict[int, float] = {}

    @hookimpl
    def before_step(self, run: Any, step: int) -> None:
        self.images[step] = [
            (int(epoch), int(index))
            for samples in run.samples
            for epoch, index in zip(samples.epochs, samples.indices, strict=True)
        ]
        self.rates[step] = run.schedules.now["learning_rate"]


def make_of_another_machine(directory: Path, **facts: Any) -> None:
    """Save the newest checkpoint again as if these facts had been others."""
    store = CheckpointStore(directory / "checkpoints")
    step = store.steps()[-1]
    state = store.load_facts(store.path(step), "state")
    state["machine"] |= facts.pop("machine", {})
    state["versions"] |= facts.pop("versions", {})
    store.amend(step, {"state": state | facts})


def stopped(bigrunner: Runner, **tables: Any) -> RunResult:
    result = bigrunner.run(steps=6, companions=[StopAt(2)], **tables)
    assert result.exit_code == ExitCode.STOPPED
    return result


CUDA = {"device": "NVIDIA A100-SXM4-80GB", "backend": "CUDA", "processes": 4, "threads": 64}


def test_bar_22_another_device_and_world_size_go_on_in_the_same_order(bigrunner: Runner) -> None:
    plain, order = Order(), Order()
    straight = bigrunner.run(steps=6, companions=[plain])
    before = stopped(bigrunner)
    make_of_another_machine(before.directory, machine=CUDA, versions={"torch": "2.10.0+cu128"})
    resumed = bigrunner.run(steps=6, directory=before.directory, companions=[order])
    resumed.assert_finished()
    (event,) = events(resumed, "machine-changed")
    assert event.level == "warning"
    assert "Images and schedules go on in the same order" in event.message
    for change in ("device: NVIDIA A100-SXM4-80GB -> CPU", "backend: CUDA -> CPU", "processes: 4 -> 1",
                   "threads: 64 -> 1", "torch: 2.10.0+cu128 -> "):  # fmt: skip
        assert change in event.message
        assert any(fact.startswith(change) for fact in event.facts["changes"])
    assert order.images == {step: plain.images[step] for step in (3, 4, 5, 6)}
    assert order.rates == {step: plain.rates[step] for step in (3, 4, 5, 6)}
    assert all(torch.equal(resumed.parameters[name], tensor) for name, tensor in straight.parameters.items())


def test_bar_22_the_next_checkpoint_is_of_this_machine(bigrunner: Runner) -> None:
    before = stopped(bigrunner)
    make_of_another_machine(before.directory, machine=CUDA)
    bigrunner.run(steps=4, directory=before.directory).assert_finished()
    again = bigrunner.run(steps=6, directory=before.directory)
    again.assert_finished()
    assert events(again, "machine-changed") == []


def test_bar_22_the_same_machine_says_nothing(bigrunner: Runner) -> None:
    resumed = bigrunner.run(steps=6, directory=stopped(bigrunner).directory)
    resumed.assert_finished()
    assert events(resumed, "machine-changed") == []


@pytest.mark.parametrize(("before", "now"), [(None, "580.95.05"), ("580.95.05", None), (None, None)])
def test_bar_22_what_was_not_known_is_no_change(before: str | None, now: str | None) -> None:
    """A driver that did not say its version, or a checkpoint of a bigrun that did not ask."""
    old: dict[str, Any] = {"device": "NVIDIA H200", "driver": before}
    assert machine_changes(old, {"device": "NVIDIA H200", "driver": now, "memory_gib": 141}) == []
    assert machine_changes(old | {"driver": "570.86"}, {"driver": "580.95.05"}) == ["driver: 570.86 -> 580.95.05"]


def test_bar_22_a_driver_that_says_its_version_now_is_no_other_machine(bigrunner: Runner) -> None:
    before = stopped(bigrunner)
    make_of_another_machine(before.directory, machine={"arch": None, "memory_gib": None})
    resumed = bigrunner.run(steps=6, directory=before.directory)
    resumed.assert_finished()
    assert events(resumed, "machine-changed") == []


@pytest.mark.slow
def test_bar_22_another_number_of_threads_is_said(bigrunner: Runner) -> None:
    hardware = {"device": "cpu", "precision": "fp32", "threads": 2}
    resumed = bigrunner.run(steps=6, directory=stopped(bigrunner).directory, hardware=hardware)
    resumed.assert_finished()
    assert "threads: 1 -> 2" in events(resumed, "machine-changed")[0].message


def test_bar_22_another_micro_batch_keeps_the_order(bigrunner: Runner) -> None:
    """As a smaller device needs it."""
    plain, order = Order(), Order()
    bigrunner.run(steps=6, companions=[plain]).assert_finished()
    resumed = bigrunner.run(steps=6, accumulate=4, directory=stopped(bigrunner).directory, companions=[order])
    resumed.assert_finished()
    assert order.images == {step: plain.images[step] for step in (3, 4, 5, 6)}
    assert any("data.micro_batch: 4 -> 1" in event.message for event in events(resumed, "config-changed"))


@pytest.mark.gpu
@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_bar_22_between_a_cpu_and_a_gpu(bigrunner: Runner, tmp_path: Path, first: str, then: str) -> None:
    def hardware(device: str) -> dict[str, Any]:
        return {"device": device, "precision": "fp32", "threads": 1}

    plain, order = Order(), Order()
    bigrunner.run(steps=6, companions=[plain], hardware=hardware(first)).assert_finished()
    before = stopped(bigrunner, hardware=hardware(first))
    moved = Path(shutil.copytree(before.directory, tmp_path / "elsewhere"))
    resumed = bigrunner.run(steps=6, directory=moved, companions=[order], hardware=hardware(then))
    resumed.assert_finished()
    assert "device: " in events(resumed, "machine-changed")[0].message
    assert order.images == {step: plain.images[step] for step in (3, 4, 5, 6)}
    assert order.rates == {step: plain.rates[step] for step in (3, 4, 5, 6)}
