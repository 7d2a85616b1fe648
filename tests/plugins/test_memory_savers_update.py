"""Updating in a second backward pass: the very steps of one pass, without all gradients at once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bigrun import hookimpl
from bigrun.anomaly import Action, Anomaly
from bigrun.devices import Setting
from bigrun.errors import ExitCode
from bigrun.run import Run
from bigrun.testing.devices import device
from bigrun.testing.runner import Runner, RunResult
from bigrun_savers import two_passes
from bigrun_savers.plugin import UPDATE

PLUGIN = "memory-savers"
ON = {"update_in_backward": True}
CLIPPED: dict[str, Any] = {"steps": 4, "accumulate": 1, "optimizer": {"clip_norm": 0.05}}


@pytest.fixture(autouse=True)
def portion(request: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes; a tiny network has fewer than a portion usually is."""
    number: int = getattr(request, "param", 1)
    monkeypatch.setattr(two_passes, "PORTION_BYTES", number)
    return number


BOTH_PORTIONS = pytest.mark.parametrize(
    "portion", [1, two_passes.PORTION_BYTES], ids=["each alone", "together"], indirect=True
)


def row_of(result: RunResult) -> Setting:
    assert result.run is not None
    return next(row for row in result.run.settings if row.name == UPDATE)


def assert_same(result: RunResult, plain: RunResult) -> None:
    result.assert_finished()
    assert result.losses == plain.losses
    assert result.parameters.keys() == plain.parameters.keys()
    for name, tensor in plain.parameters.items():
        assert torch.equal(result.parameters[name], tensor), name


class Gradients:
    """Looks for gradients where others might, and keeps the norms that it is told."""

    def __init__(self) -> None:
        self.there: list[bool] = []
        self.norms: list[float] = []

    def look(self, run: Run) -> None:
        self.there.append(any(p.grad is not None for p in run.objective.student.parameters()))

    @hookimpl
    def after_backward(self, run: Run) -> None:
        self.look(run)

    @hookimpl
    def before_update(self, run: Run, grad_norm: Tensor) -> None:
        self.norms.append(float(grad_norm))
        self.look(run)

    @hookimpl
    def after_update(self, run: Run) -> None:
        self.look(run)


@pytest.mark.parametrize(
    ("mode", "precision"),
    [
        ("none", "fp32"),
        ("full", "bf16"),
        pytest.param("none", "bf16", marks=pytest.mark.slow),
        pytest.param("full", "fp32", marks=pytest.mark.slow),
    ],
)
def test_no_bit_changes(bigrunner: Runner, precision: str, mode: str) -> None:
    tables = {"hardware": {"precision": precision, "activation_checkpointing": mode}}
    theirs, ours = Gradients(), Gradients()
    plain = bigrunner.run(**CLIPPED, **tables, companions=[theirs])
    result = bigrunner.run(PLUGIN, config=ON, **CLIPPED, **tables, companions=[ours])
    assert_same(result, plain)
    assert row_of(result).took_effect
    assert result.run is not None
    assert ours.norms == theirs.norms
    assert min(theirs.norms) > 0.05, "gradients were clipped"
    assert set(theirs.there) == {True}
    assert set(ours.there) == {False}


@BOTH_PORTIONS
def test_gradients_never_exist_together(bigrunner: Runner, portion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    arrived = two_passes.TwoPasses._arrived

    def count(self: Any, parameter: Tensor) -> None:
        held.append(sum(p.grad is not None for group in self._optimizer.param_groups for p in group["params"]))
        arrived(self, parameter)

    monkeypatch.setattr(two_passes.TwoPasses, "_arrived", count)
    result = bigrunner.run(PLUGIN, config=ON, steps=1, accumulate=1)
    result.assert_finished()
    assert result.run is not None
    parameters = sum(len(group["params"]) for group in result.run.optimizer.param_groups)
    assert len(held) == 2 * parameters
    first, second = held[:parameters], held[parameters:]
    assert set(first) == {1}
    assert (set(second) == {1}) if portion == 1 else (second == list(range(1, parameters + 1)))


@BOTH_PORTIONS
def test_it_resumes_bit_for_bit_and_can_be_switched_off(bigrunner: Runner) -> None:
    straight = bigrunner.run(PLUGIN, config=ON, **CLIPPED)
    assert_same(bigrunner.resume(straight, 2), straight)
    assert_same(bigrunner.resume(straight, 2, plugins={}), straight)


class Spoils:
    """Makes the loss of step 2 infinite."""

    @hookimpl
    def loss_terms(self, step: int, outputs: Any) -> Mapping[str, Tensor]:
        return {"spoiled": outputs.global_features.cls.sum() * (float("inf") if step == 2 else 0.0)}


class Objects:
    """Holds back the update of step 2, when all about its gradients is known."""

    @hookimpl
    def before_update(self, run: Run, step: int, grad_norm: Tensor) -> None:
        if step == 2:
            run.report_anomaly(Anomaly("spike", step, f"norm {float(grad_norm)}"))

    @hookimpl(tryfirst=True)
    def on_anomaly(self, anomaly: Anomaly) -> Action | None:
        return Action.SKIP if anomaly.kind == "spike" else None


@pytest.mark.parametrize("companion", [Spoils(), Objects()], ids=["not finite", "held back"])
def test_a_step_is_left_out_as_a_whole(bigrunner: Runner, companion: Any) -> None:
    plain = bigrunner.run(**CLIPPED, companions=[companion])
    result = bigrunner.run(PLUGIN, config=ON, **CLIPPED, companions=[companion])
    assert_same(result, plain)
    assert len(result.losses) == len(plain.losses)
    undisturbed = bigrunner.run(**CLIPPED)
    name = next(name for name in plain.parameters if "blocks" in name)
    assert not torch.equal(plain.parameters[name], undisturbed.parameters[name]), "the step was left out"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_goes_with_a_plugin_that_adds_a_loss(bigrunner: Runner, precision: str) -> None:
    gram = {"snapshot_step": 1, "start_step": 2, "ramp_steps": 1}
    plain = bigrunner.run("gram-anchoring", config=gram, **CLIPPED, hardware={"precision": precision})
    both = bigrunner.resume(plain, 1, plugins={"gram-anchoring": gram, PLUGIN: ON})
    assert_same(both, plain)


def test_it_goes_with_a_teacher_and_activations_in_host_memory(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = bigrunner.run(**CLIPPED)
    monkeypatch.setattr("bigrun.devices.read.read_facts", lambda *_: device("rtx4090"))
    config = ON | {"teacher_offload": True, "activation_offload": True}
    result = bigrunner.run(PLUGIN, config=config, **CLIPPED)
    assert_same(result, plain)
    assert result.run is not None
    assert [row.took_effect for row in result.run.settings] == [True] * 3


@pytest.mark.parametrize("states", ["bf16", "8bit"])
def test_it_goes_with_small_states(bigrunner: Runner, states: str) -> None:
    """The same numbers in 8 bits; in bf16 other ones are drawn for rounding where portions are others."""
    if states == "8bit":
        pytest.importorskip("torchao")
    wide = {"width": 64, "ffn_hidden": 128}
    plain = bigrunner.run(PLUGIN, config={"optimizer_states": states}, model=wide, **CLIPPED)
    result = bigrunner.run(PLUGIN, config=ON | {"optimizer_states": states}, model=wide, **CLIPPED)
    if states == "8bit":
        assert_same(result, plain)
    assert result.losses == pytest.approx(plain.losses, rel=1e-5)
    assert row_of(result).took_effect


def test_selective_checkpointing_is_refused(bigrunner: Runner) -> None:
    result = bigrunner.run(PLUGIN, config=ON, hardware={"activation_checkpointing": "selective"})
    assert result.exit_code == ExitCode.USAGE
    assert "torch allows one with hardware.activation_checkpointing = 'selective'" in str(result.error)
    assert not result.directory.exists()


def test_with_accumulation_it_has_no_effect_and_says_so(bigrunner: Runner) -> None:
    plain = bigrunner.run(steps=2, accumulate=2)
    result = bigrunner.run(PLUGIN, config=ON, steps=2, accumulate=2)
    assert_same(result, plain)
    row = row_of(result)
    assert (row.after, row.took_effect) == ("off", False)
    assert "gradients of 2 micro-batches" in row.evidence
    (warning,) = [event.message for event in result.events if event.level == "warning"]
    assert warning == f"update in the backward pass stays off: {row.evidence}"


class OutOfMemory:
    """Lets memory run out in a backward pass of step 3."""

    def __init__(self, backward_pass: int) -> None:
        self.backward_pass = backward_pass

    @hookimpl
    def loss_terms(self, step: int, outputs: Any) -> Mapping[str, Tensor]:
        passes: list[None] = []

        def spoil(gradient: Tensor) -> None:
            passes.append(None)
            if step == 3 and len(passes) == self.backward_pass:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 256.00 MiB")

        nothing = outputs.global_features.cls * 0
        nothing.register_hook(spoil)
        return {"nothing": nothing.sum()}


@pytest.mark.parametrize("portion", [two_passes.PORTION_BYTES], indirect=True)
@pytest.mark.parametrize("backward_pass", [1, 2])
def test_without_memory_before_the_first_update_the_state_before_the_step_is_saved(
    bigrunner: Runner, backward_pass: int
) -> None:
    result = bigrunner.run(
        PLUGIN,
        config=ON,
        accumulate=1,
        companions=[OutOfMemory(backward_pass)],
        run={"checkpoint_every_steps": 100, "max_steps": 4},
    )
    assert "step 3 needs more memory" in str(result.error)
    assert "the state before it is saved" in str(result.error)
    assert (result.directory / "checkpoints" / "step-00000002").is_dir()


class Switches:
    """One block does not learn when the run begins, and does from step 3 on; the other one the other way round."""

    @hookimpl
    def configure_model(self, objective: Any) -> None:
        objective.student.backbone.blocks[0].requires_grad_(False)

    @hookimpl
    def before_step(self, run: Run, step: int) -> None:
        run.objective.student.backbone.blocks[0].requires_grad_(step >= 3)
        run.objective.student.backbone.blocks[1].requires_grad_(step < 2)


def test_what_does_not_learn_yet_is_no_obstacle(bigrunner: Runner) -> None:
    plain = bigrunner.run(**CLIPPED, companions=[Switches()])
    assert_same(bigrunner.run(PLUGIN, config=ON, **CLIPPED, companions=[Switches()]), plain)


class Compiles:
    """The student's blocks, as if nothing had been compiled in this process."""

    @hookimpl
    def configure_model(self, objective: Any) -> None:
        torch._dynamo.reset()
        for block in objective.student.backbone.blocks:
            block.compile(dynamic=False)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("default")
def test_compiled_blocks_of_an_earlier_run_are_not_taken_from_the_cache(
    bigrunner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They write over what they have saved: gradients of the second pass were 100 % off."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    options: dict[str, Any] = {"hardware": {"precision": "bf16"}, "accumulate": 1, "steps": 2}
    plain = bigrunner.run(**options, companions=[Compiles()])
    both = bigrunner.run(PLUGIN, config=ON, **options, companions=[Compiles()])
    monkeypatch.delenv("_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR", raising=False)  # inductor's own
    assert_same(both, plain)
