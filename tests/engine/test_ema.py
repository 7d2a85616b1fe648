"""The exponential moving average."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bigrun.ema import ema_update, frozen_copy


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
