"""Accumulation, clipping and the teacher in the loop itself: what one optimizer step does to the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from bigrun import hookimpl
from bigrun.errors import ExitCode
from bigrun.testing.runner import Runner, RunResult, SyntheticImages

# Without what is random per sample or per micro-batch; LayerScale would hide the blocks.
PLAIN = {"drop_path_fraction": 0.0, "rope_rescale_factor": False, "layerscale": False}

# Learning rate and decay are the same for every weight and every step.
CONSTANT = {
    "base_lr": 0.2, "lr_rule": "none", "lr_end_fraction": 1.0, "weight_decay": 0.0,
    "layer_decay": 1.0, "patch_embed_lr_factor": 1.0,
    "warmup_steps": 0, "freeze_last_layer_steps": 0, "clip_norm": False,
}  # fmt: skip

# A sharp teacher that moves: the paths of different targets part visibly within 3 steps.
SHARP = {
    "teacher_temperature": 0.04, "teacher_temperature_warmup_steps": 0, "koleo_weight": 0.1, "koleo_group": 2,
}  # fmt: skip


class PlainSgd:
    """The weights move by the gradient itself: Adam would turn the rounding of tiny gradients into whole steps."""

    @hookimpl
    def build_optimizer(self, parameters: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(parameters), lr=0.0)


class Snapshots:
    """Copies of what a step may change, before and after each."""

    def __init__(self) -> None:
        self.before: dict[int, dict[str, Any]] = {}
        self.updated: dict[int, dict[str, Any]] = {}
        self.after: dict[int, dict[str, Any]] = {}
        self.gradients: dict[int, dict[str, Tensor]] = {}

    @hookimpl
    def before_step(self, run: Any, step: int) -> None:
        self.before[step] = state_of(run)

    @hookimpl
    def before_update(self, run: Any, step: int) -> None:
        parameters = run.objective.student.named_parameters()
        self.gradients[step] = {name: p.grad.clone() for name, p in parameters if p.grad is not None}

    @hookimpl
    def after_update(self, run: Any, step: int) -> None:
        self.updated[step] = state_of(run)

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        self.after[step] = state_of(run)


def state_of(run: Any) -> dict[str, Any]:
    """Every tensor of student, teacher and optimizer, copied."""
    tensors = {name: tensor.clone() for name, tensor in run.objective.state_dict().items()}
    optimizer: Mapping[int, Mapping[str, Any]] = copy.deepcopy(run.optimizer.state_dict()["state"])
    return tensors | {f"optimizer.{i}.{key}": value for i, state in optimizer.items() for key, value in state.items()}


def part(state: Mapping[str, Tensor], prefix: str) -> Tensor:
    """The tensors below a prefix as one vector, in double precision."""
    return torch.cat([tensor.flatten().double() for name, tensor in state.items() if name.startswith(prefix)])


def descend(
    bigrunner: Runner,
    accumulate: int = 1,
    *,
    steps: int = 3,
    effective_batch: int = 8,
    companions: Sequence[Any] = (),
    objective: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
) -> RunResult:
    """Plain gradient descent over the same images, in `accumulate` micro-batches a step."""
    result = bigrunner.run(
        steps=steps,
        companions=[PlainSgd(), *companions],
        dataset=SyntheticImages(20),
        data={"effective_batch": effective_batch, "micro_batch": effective_batch // accumulate},
        model={"width": 32, "depth": 2, "heads": 2, "ffn_hidden": 64, "patch_size_px": 8, **PLAIN},
        objective=SHARP | dict(objective or {}),
        optimizer=CONSTANT | dict(optimizer or {}),
        teacher={"momentum": 0.8, "momentum_end": 0.8} | dict(teacher or {}),
    )
    result.assert_finished()
    assert result.run is not None
    assert result.run.accumulate == accumulate
    return result


def apart(one: RunResult, other: RunResult) -> float:
    """The largest difference of any weight of student or teacher."""
    assert one.parameters.keys() == other.parameters.keys()
    return max((one.parameters[name] - other.parameters[name]).abs().max().item() for name in one.parameters)


# -- accumulation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effective_batch", [8, 16])
def test_a_run_is_the_same_in_one_two_or_four_micro_batches(bigrunner: Runner, effective_batch: int) -> None:
    watch = Snapshots()
    once = descend(bigrunner, effective_batch=effective_batch, companions=[watch])
    for network in ("student.", "teacher."):  # far enough from the start that 1e-5 means something
        moved = (part(watch.after[3], network) - part(watch.before[1], network)).abs().max()
        assert moved > 1e-2, network
    for accumulate in (2, 4):
        accumulated = descend(bigrunner, accumulate, effective_batch=effective_batch)
        assert apart(accumulated, once) < 1e-5, accumulate
        assert accumulated.losses == pytest.approx(once.losses, abs=2e-6), accumulate
        norms = [[row["grad_norm"] for row in result.metrics] for result in (accumulated, once)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-4), accumulate


def test_balancing_each_micro_batch_alone_takes_another_path(bigrunner: Runner) -> None:
    effective = descend(bigrunner, 4)
    alone = descend(bigrunner, 4, objective={"sinkhorn_scope": "micro"})
    # Weights: 0.057 with torch 2.13, 0.004 with 2.10; E3 of the recipe asks for 1e-3, equal is below 1e-5.
    assert apart(alone, effective) > 1e-3
    # Losses: 4e-4 and 5e-5; equal is below 2e-6.
    assert max(abs(a - b) for a, b in zip(alone.losses, effective.losses, strict=True)) > 2e-5
    whole = descend(bigrunner, 1, objective={"sinkhorn_scope": "micro"})
    assert apart(whole, effective) < 1e-5  # of a single micro-batch there is no other scope


# -- clipping -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_sub_module_moves_by_the_clipped_norm_and_the_log_has_the_norm_before(
    bigrunner: Runner, accumulate: int
) -> None:
    clip_norm = 0.01
    free = descend(bigrunner, accumulate, steps=1).metrics[0]
    watch = Snapshots()
    descent = {"clip_norm": clip_norm, "base_lr": 1.0}  # the weights move by the gradient that is left
    clipped = descend(bigrunner, accumulate, steps=1, companions=[watch], optimizer=descent)
    before, after = watch.before[1], watch.after[1]
    for name in ("backbone", "dino_head", "ibot_head"):
        moved = (part(after, f"student.{name}.") - part(before, f"student.{name}.")).norm().item()
        assert moved == pytest.approx(clip_norm, rel=1e-3), name
        assert part(watch.gradients[1], f"{name}.").norm().item() == pytest.approx(clip_norm, rel=1e-3), name
        assert clipped.metrics[0][f"grad_norm/{name}"] > 2 * clip_norm  # or clipping would have had nothing to do
    norms = {name: value for name, value in free.items() if name.startswith("grad_norm")}
    assert set(norms) == {"grad_norm", "grad_norm/backbone", "grad_norm/dino_head", "grad_norm/ibot_head"}
    assert {name: clipped.metrics[0][name] for name in norms} == pytest.approx(norms, rel=1e-6)
    parts = [norms[f"grad_norm/{name}"] for name in ("backbone", "dino_head", "ibot_head")]
    assert norms["grad_norm"] == pytest.approx(torch.tensor(parts).norm().item(), rel=1e-6)


def test_gradients_below_the_limit_are_left_alone(bigrunner: Runner) -> None:
    free, limited = descend(bigrunner), descend(bigrunner, optimizer={"clip_norm": 1e6})
    assert limited.losses == free.losses
    assert apart(limited, free) == 0


# -- a gradient that is not finite ----------------------------------------------------------------------------


class InfiniteGradient:
    """A term that is 0 and whose gradient is infinite, in one micro-batch of step 2."""

    def __init__(self, micro: int) -> None:
        self.micro = micro

    @hookimpl
    def loss_terms(self, run: Any, step: int, micro: int) -> dict[str, Tensor]:
        weight = run.objective.student.dino_head.last_layer.weight
        zero = (weight - weight.detach()).sum()
        return {"edge": zero.sqrt() if (step, micro) == (2, self.micro) else zero}


@pytest.mark.parametrize("clip_norm", [3.0, False])
@pytest.mark.parametrize(("accumulate", "micro"), [(1, 0), (2, 0), (2, 1)])
def test_an_infinite_gradient_under_a_finite_loss_skips_the_step(
    bigrunner: Runner, accumulate: int, micro: int, clip_norm: float
) -> None:
    watch = Snapshots()
    result = bigrunner.run(
        accumulate=accumulate,
        companions=[InfiniteGradient(micro), watch],
        optimizer={"clip_norm": clip_norm, "warmup_steps": 0, "freeze_last_layer_steps": 0},
        teacher={"momentum": 0.8, "momentum_end": 0.8},
    )
    assert result.exit_code == ExitCode.FINISHED
    assert set(watch.updated) == {1, 3}
    before, after = watch.before[2], watch.after[2]
    assert before.keys() == after.keys()
    assert any(name.startswith("optimizer.") and name.endswith(".exp_avg_sq") for name in before)
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    for step in (1, 3):  # the others did change something
        assert any(not torch.equal(v, watch.after[step].get(k, v)) for k, v in watch.before[step].items())
    (event,) = [e for e in result.events if e.kind == "anomaly"]
    assert event.step == 2
    assert event.facts["action"] == "skip"
    evidence = event.facts["evidence"]
    assert evidence["grad_norm"] in ("inf", "nan")
    assert not [name for name in evidence if name.startswith("loss")]
    assert "grad_norm = " in event.message
    assert all(tensor.isfinite().all() for tensor in result.parameters.values())


# -- the teacher ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_teacher_follows_the_updated_student_by_the_scheduled_momentum(bigrunner: Runner, accumulate: int) -> None:
    watch = Snapshots()
    result = descend(bigrunner, accumulate, companions=[watch], teacher={"momentum": 0.5, "momentum_end": 0.9})
    momenta = [row["teacher_momentum"] for row in result.metrics]
    assert momenta == pytest.approx([0.5, 0.7, 0.9])
    assert result.run is not None
    parameters = [name for name, _ in result.run.objective.teacher.named_parameters()]
    for step, momentum in enumerate(momenta, start=1):
        for name in parameters:
            before, student = watch.before[step][f"teacher.{name}"], watch.updated[step][f"student.{name}"]
            expected = momentum * before.double() + (1 - momentum) * student.double()
            torch.testing.assert_close(
                watch.updated[step][f"teacher.{name}"].double(), expected, rtol=1e-6, atol=1e-7, msg=f"{step}: {name}"
            )
        lag = part(watch.updated[step], "student.") - part(watch.before[step], "teacher.")
        assert lag.abs().max() > 1e-3  # or a teacher that stands still would pass
