"""The exponential moving average."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bigrun import hookimpl
from bigrun.ema import ema_update, frozen_copy
from bigrun.run import Run
from bigrun.schedules import Schedule, Schedules
from bigrun.testing.runner import Runner


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3, bias=False))


def flat(module: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(p.detach().clone() for p in module.parameters())


def test_a_frozen_copy_is_equal_and_separate() -> None:
    student = network(0)
    teacher = frozen_copy(student)
    assert torch.equal(flat(teacher), flat(student))
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    assert student.training
    assert all(p.requires_grad for p in student.parameters())
    with torch.no_grad():
        student[0].weight.add_(1.0)  # type: ignore[index,operator,union-attr]
    assert not torch.equal(flat(teacher), flat(student))


def test_t17_closed_form_over_ten_steps() -> None:
    """For a student that stands still: teacher(n) = student + m^n (teacher(0) - student)."""
    student, teacher = network(0), frozen_copy(network(1))
    start = flat(teacher)
    for _ in range(10):
        ema_update(teacher, student, 0.9)
    expected = flat(student) + 0.9**10 * (start - flat(student))
    torch.testing.assert_close(flat(teacher), expected, rtol=1e-6, atol=1e-6)


def test_t17_momentum_one_freezes_and_zero_copies() -> None:
    student, teacher = network(0), frozen_copy(network(1))
    start = flat(teacher)
    ema_update(teacher, student, 1.0)
    assert torch.equal(flat(teacher), start)
    ema_update(teacher, student, 0.0)
    assert torch.equal(flat(teacher), flat(student))


def test_t17_the_update_records_no_gradient_and_leaves_the_student() -> None:
    student, teacher = network(0), frozen_copy(network(1))
    before = flat(student)
    ema_update(teacher, student, 0.5)
    assert torch.equal(flat(student), before)
    assert all(p.grad_fn is None and not p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("momentum", [0.999, 0.9999])
def test_small_changes_are_not_lost(momentum: float) -> None:
    """A change of 2^-9 of the value, all that bf16 could show, takes 1 / (1 - m) steps to arrive."""
    student, teacher = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(student.weight, 1 + 2**-9)
    nn.init.constant_(teacher.weight, 1.0)
    ema_update(teacher, student, momentum)
    assert teacher.weight.item() - 1 == pytest.approx((1 - momentum) * 2**-9, rel=0.3)


class NoTeacherIsTrained:
    """Looks at a real run, at the end of every step's backward passes."""

    def __init__(self) -> None:
        self.steps = 0

    @hookimpl
    def before_update(self, run: Run) -> None:
        self.steps += 1
        optimized = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
        teacher = dict(run.objective.teacher.named_parameters())
        assert len(teacher) == len(list(run.objective.student.parameters()))
        for name, parameter in teacher.items():
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
            assert id(parameter) not in optimized, name
        assert optimized == {id(p) for p in run.objective.student.parameters()}
        assert not any(module.training for module in run.objective.teacher.modules())


@pytest.mark.parametrize("plugins", [(), ("gram-anchoring",)])
def test_t17_the_teacher_of_a_run_has_no_gradient_and_is_never_in_the_optimizer(
    bigrunner: Runner, plugins: tuple[str, ...]
) -> None:
    watch = NoTeacherIsTrained()
    config = {"snapshot_step": 1, "start_step": 2, "ramp_steps": 1} if plugins else None
    bigrunner.run(*plugins, steps=3, config=config, companions=[watch]).assert_finished()
    assert watch.steps == 3


def test_t17_the_objective_follows_the_closed_form_and_keeps_its_buffers(bigrunner: Runner) -> None:
    """The whole network, backbone and heads, over ten steps of a student that stands still."""
    result = bigrunner.run(steps=2)
    assert result.run is not None
    objective = result.run.objective
    schedules = Schedules()
    schedules.add("teacher_momentum", Schedule(0.9, 0.9, 0.9, 0, None))
    schedules.apply(1)
    objective.schedules = schedules  # type: ignore[assignment]
    start, student = flat(objective.teacher), flat(objective.student)
    buffers = {name: buffer.clone() for name, buffer in objective.teacher.named_buffers()}
    assert not torch.equal(start, student)
    for _ in range(10):
        objective.update_teacher()
    torch.testing.assert_close(flat(objective.teacher), student + 0.9**10 * (start - student), rtol=1e-5, atol=1e-6)
    assert buffers
    for name, buffer in objective.teacher.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
