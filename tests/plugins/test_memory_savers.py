"""memory-savers in a run: the same losses or close ones, what it says of itself, what a continued run may change."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import pytest
import torch

from bigrun import hookimpl
from bigrun.config import Document
from bigrun.devices import Setting
from bigrun.errors import CheckpointError, ExitCode, RunDirectoryError, UsageError
from bigrun.run import Run
from bigrun.session import run_training
from bigrun.testing.contract import PluginContract
from bigrun.testing.devices import device
from bigrun.testing.recorder import Recorder
from bigrun.testing.runner import Runner, RunResult, SyntheticImages
from bigrun_savers.plugin import ACTIVATIONS, STATES, TEACHER

PLUGIN = "memory-savers"
WIDE = {"width": 64, "ffn_hidden": 128}
"""So that matrices have the 4096 elements from which on their averages are made smaller."""
BOTH = {"activation_offload": True, "teacher_offload": True}


class TestContract(PluginContract):
    plugin = PLUGIN
    config: ClassVar[dict[str, Any]] = {"optimizer_states": "bf16"}
    tables: ClassVar[dict[str, Any]] = {"model": WIDE}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run on this processor takes itself to be on another device; copies to the host are then copies from memory to
    memory, and everything else is as it would be."""

    def pretend(name: str) -> None:
        monkeypatch.setattr("bigrun.devices.read.read_facts", lambda *_: device(name))

    return pretend


def rows_of(result: RunResult) -> dict[str, Setting]:
    assert result.run is not None
    return {row.name: row for row in result.run.settings}


def saved_optimizer(result: RunResult, step: int) -> dict[str, torch.Tensor]:
    assert result.run is not None
    return result.run.checkpoints.load_tensors(result.run.checkpoints.path(step), "optimizer")


# -- offload ----------------------------------------------------------------------------------------------------------


class Watch:
    """Where the teacher's weights are: on the device in its forward pass and its update, else in host memory."""

    def __init__(self) -> None:
        self.gradients: list[bool] = []
        self.places: set[int] = set()

    @hookimpl
    def before_step(self, run: Run) -> None:
        self.places.add(next(run.objective.teacher.backbone.parameters()).data_ptr())

    @hookimpl(tryfirst=True)
    def after_update(self, run: Run) -> None:
        self.gradients.append(any(p.grad is not None for p in run.objective.student.parameters()))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_offload_changes_no_bit(bigrunner: Runner, gpu: Any, accumulate: int) -> None:
    gpu("rtx4090")
    watch = Watch()
    plain = bigrunner.run(steps=4, accumulate=accumulate)
    result = bigrunner.run(PLUGIN, config=BOTH, steps=4, accumulate=accumulate, companions=[watch])
    result.assert_finished()
    assert result.losses == plain.losses
    for name, tensor in plain.parameters.items():
        assert torch.equal(result.parameters[name], tensor), name
    assert [rows_of(result)[name].took_effect for name in (ACTIVATIONS, TEACHER)] == [True, True]
    assert len(watch.places) == 1, "between steps the teacher has its place in host memory"
    assert watch.gradients == [False] * 4, "gradients make room for the teacher"
    resumed = bigrunner.resume(result, 2)
    resumed.assert_finished()
    assert resumed.losses == plain.losses


def test_offload_goes_with_a_plugin_that_reads_the_teacher(bigrunner: Runner, gpu: Any) -> None:
    gpu("rtx4090")
    gram = {"snapshot_step": 1, "start_step": 2, "ramp_steps": 1, "refresh_every_steps": 1, "max_refreshes": 2}
    plain = bigrunner.run("gram-anchoring", config=gram, steps=5)
    both = bigrunner.resume(plain, 1, plugins={"gram-anchoring": gram, PLUGIN: BOTH})
    both.assert_finished()
    assert rows_of(both)[TEACHER].took_effect
    assert both.losses == plain.losses


@pytest.mark.parametrize(
    ("name", "why"), [("cpu", "its memory is the host's"), ("gfx1151-b", "share their memory")], ids=["cpu", "unified"]
)
def test_without_another_memory_offload_has_no_effect_and_says_so(
    bigrunner: Runner, gpu: Any, name: str, why: str
) -> None:
    gpu(name)
    plain = bigrunner.run(steps=2)
    result = bigrunner.run(PLUGIN, config=BOTH, steps=2)
    result.assert_finished()
    assert result.losses == plain.losses
    rows = rows_of(result)
    assert set(rows) == {ACTIVATIONS, TEACHER}
    assert all(row.took_effect is False and why in row.evidence for row in rows.values())


def test_nothing_asked_for_is_nothing_done(bigrunner: Runner) -> None:
    plain, result = bigrunner.run(steps=3), bigrunner.run(PLUGIN, steps=3)
    result.assert_finished()
    assert result.losses == plain.losses
    assert rows_of(result) == {}


# -- states -----------------------------------------------------------------------------------------------------------


def student_at(result: RunResult, step: int) -> dict[str, torch.Tensor]:
    assert result.run is not None
    return result.run.checkpoints.load_tensors(result.run.checkpoints.path(step), "student")


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return float(torch.stack([(a[name] - b[name]).double().norm() for name in a]).norm())


@pytest.mark.parametrize(("states", "apart"), [("bf16", 0.01), ("8bit", 0.06)])
def test_losses_and_weights_stay_close_over_20_steps(bigrunner: Runner, states: str, apart: float) -> None:
    """Measured: losses differ by 3e-7 of their value, weights by 0.003 and 0.033 of the way that they have gone."""
    if states == "8bit":
        pytest.importorskip("torchao")
    options: dict[str, Any] = {
        "steps": 20,
        "model": WIDE,
        "run": {"checkpoint_every_steps": 19, "max_steps": 20},
        "objective": {"teacher_temperature": 0.04},
        "optimizer": {"base_lr": 4e-3, "lr_rule": "none", "layer_decay": 1.0},
    }
    plain = bigrunner.run(**options)
    result = bigrunner.run(PLUGIN, config={"optimizer_states": states}, **options)
    result.assert_finished()
    gone = distance(student_at(plain, 20), student_at(bigrunner.run(**options | {"steps": 1, "run": {}}), 1))
    assert result.losses == pytest.approx(plain.losses, rel=1e-5)
    assert 0 < distance(student_at(result, 20), student_at(plain, 20)) < apart * gone
    assert rows_of(result)[STATES].after == states


@pytest.mark.parametrize(("states", "largest"), [("bf16", 0.57), ("8bit", 0.36)])
def test_checkpoints_hold_the_small_states(bigrunner: Runner, states: str, largest: float) -> None:
    if states == "8bit":
        pytest.importorskip("torchao")
    plain = bigrunner.run(steps=1, model=WIDE)
    result = bigrunner.run(PLUGIN, config={"optimizer_states": states}, steps=1, model=WIDE)
    sizes = [sum(tensor.nbytes for tensor in saved_optimizer(run, 1).values()) for run in (result, plain)]
    assert sizes[0] < largest * sizes[1]
    live = result.run.optimizer.state if result.run else {}
    saved = sorted(tensor.nbytes for tensor in saved_optimizer(result, 1).values())
    assert saved == sorted(tensor.nbytes for state in live.values() for tensor in state.values())


class Draws:
    """Takes numbers from the generators right before the optimizer rounds at random."""

    observer = True

    @hookimpl
    def before_update(self, step: int) -> None:
        torch.rand(step)


def test_an_observer_that_draws_changes_no_rounding(bigrunner: Runner) -> None:
    options: dict[str, Any] = {"config": {"optimizer_states": "bf16"}, "steps": 3, "model": WIDE}
    alone, watched = bigrunner.run(PLUGIN, **options), bigrunner.run(PLUGIN, companions=[Draws()], **options)
    before, after = saved_optimizer(alone, 3), saved_optimizer(watched, 3)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    other = bigrunner.run(PLUGIN, **options | {"run": {"seed": 1}})
    assert not all(torch.equal(saved_optimizer(other, 3)[name], tensor) for name, tensor in before.items())


def test_8bit_resumes_bit_for_bit(bigrunner: Runner) -> None:
    pytest.importorskip("torchao")
    straight = bigrunner.run(PLUGIN, config={"optimizer_states": "8bit"}, steps=4, model=WIDE)
    resumed = bigrunner.resume(straight, 2)
    resumed.assert_finished()
    assert resumed.losses == straight.losses
    before, after = saved_optimizer(straight, 4), saved_optimizer(resumed, 4)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_without_torchao_8bit_is_refused_before_anything_is_written(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    for name in [name for name in sys.modules if name.startswith("torchao.")]:
        monkeypatch.delitem(sys.modules, name)
    result = bigrunner.run(PLUGIN, config={"optimizer_states": "8bit"})
    assert isinstance(result.error, UsageError)
    assert result.exit_code == ExitCode.USAGE
    assert "pip install 'bigrun[8bit]'" in str(result.error)
    assert not result.directory.exists()


# -- a run that goes on otherwise -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def straights() -> dict[str, RunResult]:
    """Runs by the type of their states, each taken once."""
    return {}


@pytest.mark.parametrize("old", ["fp32", "bf16", "8bit"])
@pytest.mark.parametrize("new", ["fp32", "bf16", "8bit"])
def test_a_run_goes_on_with_states_of_another_type(
    bigrunner: Runner, straights: dict[str, RunResult], old: str, new: str
) -> None:
    if "8bit" in (old, new):
        pytest.importorskip("torchao")
    if old not in straights:
        straights[old] = bigrunner.run(PLUGIN, config={"optimizer_states": old}, steps=4, model=WIDE)
    straight = straights[old]
    resumed = bigrunner.resume(straight, 2, plugins={PLUGIN: {"optimizer_states": new}})
    resumed.assert_finished()
    assert resumed.losses == pytest.approx(straight.losses, rel=1e-4)
    said = [event.facts for event in resumed.events if event.kind == "optimizer-states"]
    assert said == ([] if old == new else [{"old": old, "new": new}])
    kept = {"fp32": torch.float32, "bf16": torch.bfloat16, "8bit": torch.uint8}[new]
    assert kept in {tensor.dtype for tensor in saved_optimizer(resumed, 4).values()}
    assert (len({tensor.dtype for tensor in saved_optimizer(resumed, 4).values()}) == 1) == (new == "fp32")


def go_on(result: RunResult, plugins: dict[str, Any], drop: list[str], steps: int) -> Run:
    """Continue in the same directory with these plugins only."""
    assert result.run is not None
    tables = result.run.config.tables()
    document = Document("test", "test", tables | {"plugins": plugins, "run": tables["run"] | {"max_steps": steps}})
    companions = {"recorder": Recorder(SyntheticImages())}
    return run_training(document, result.directory, drop_plugins=drop, companions=companions)[0]


def test_a_run_begins_with_the_plugin_later_and_leaves_it(bigrunner: Runner) -> None:
    small = bigrunner.run(steps=2, model=WIDE)
    run = go_on(small, {PLUGIN: {"optimizer_states": "bf16"}}, [], steps=3)
    assert type(run.optimizer).__name__ == "AdamWBf16"
    with pytest.raises(RunDirectoryError, match=f"--drop-plugin {PLUGIN}, but not from this .*optimizer_states=fp32"):
        go_on(small, {}, [], steps=4)
    with pytest.raises(CheckpointError, match="class: saved from AdamWBf16, expected AdamW"):
        go_on(small, {}, [PLUGIN], steps=4)
    go_on(small, {PLUGIN: {}}, [], steps=4)
    with pytest.raises(RunDirectoryError, match=f"--drop-plugin {PLUGIN}$"):
        go_on(small, {}, [], steps=5)
    run = go_on(small, {}, [PLUGIN], steps=5)
    assert run.step == 5
    assert type(run.optimizer) is torch.optim.AdamW
