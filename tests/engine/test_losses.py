"""The DINO loss: values and gradients that follow from its definition."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bigrun.objective.losses import dino_loss

K = 12


def draw(crops: int, images: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Student logits and teacher probabilities (crops, images, K)."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(crops, images, K, generator=generator)
    return student, torch.softmax(4 * torch.randn(crops, images, K, generator=generator), dim=-1)


def pair_loss(student: Tensor, target: Tensor, temperature: float) -> Tensor:
    """One pair of crops (b, K), by definition."""
    return -(target * F.log_softmax(student / temperature, dim=-1)).sum(dim=-1).mean()


@pytest.mark.parametrize("ignore_diagonal", [True, False])
def test_t09_a_student_sure_of_the_right_prototype_has_no_loss(ignore_diagonal: bool) -> None:
    target = F.one_hot(torch.tensor([3, 0, 7]), K).float().expand(2, 3, K)
    assert dino_loss(100 * target, target, 0.1, ignore_diagonal) == 0


@pytest.mark.parametrize("ignore_diagonal", [True, False])
def test_t09_a_uniform_student_has_ln_k_for_any_target(ignore_diagonal: bool) -> None:
    _, target = draw(2, 5)
    loss = dino_loss(torch.zeros(2, 5, K), target, 0.1, ignore_diagonal)
    assert loss.item() == pytest.approx(math.log(K), abs=1e-6)


def test_t09_without_the_diagonal_two_crops_have_two_cross_terms() -> None:
    student, target = draw(2, 5)
    cross = (pair_loss(student[0], target[1], 0.1) + pair_loss(student[1], target[0], 0.1)) / 2
    torch.testing.assert_close(dino_loss(student, target, 0.1, ignore_diagonal=True), cross)


def test_t09_the_gradient_of_one_pair() -> None:
    student, target = draw(1, 5)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(dino_loss(student, target, 0.1, ignore_diagonal=False), student)
    torch.testing.assert_close(gradient, (torch.softmax(student / 0.1, dim=-1) - target) / (0.1 * 5))


@settings(deadline=None, max_examples=25)
@given(
    crops=st.integers(1, 5),
    teachers=st.integers(2, 3),
    images=st.integers(1, 4),
    ignore_diagonal=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_mean_over_explicit_pairs(
    crops: int, teachers: int, images: int, ignore_diagonal: bool, seed: int
) -> None:
    student, target = draw(crops, images, seed)[0], draw(teachers, images, seed + 1)[1]
    pairs = [
        pair_loss(student[s], target[t], 0.2)
        for s in range(crops)
        for t in range(teachers)
        if not (ignore_diagonal and s == t)
    ]
    result = dino_loss(student, target, 0.2, ignore_diagonal)
    torch.testing.assert_close(result, torch.stack(pairs).mean(), rtol=1e-5, atol=1e-5)


def test_bf16_logits_are_compared_in_fp32() -> None:
    student, target = draw(2, 5)
    low = student.bfloat16()
    loss = dino_loss(low, target, 0.1, ignore_diagonal=True)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, dino_loss(low.float(), target, 0.1, ignore_diagonal=True))
