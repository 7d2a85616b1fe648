"""Sinkhorn-Knopp targets: facts about balanced assignments."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bigrun.objective.sinkhorn import sinkhorn_bias
from bigrun.objective.targets import softmax_targets
from bigrun.testing.forker import start_together

T = 0.04


def logits(rows: int, prototypes: int, std: float, seed: int = 0) -> Tensor:
    return std * torch.randn(rows, prototypes, generator=torch.Generator().manual_seed(seed))


def balanced(x: Tensor, temperature: float = T, iterations: int = 3) -> Tensor:
    return softmax_targets(x, temperature, sinkhorn_bias(lambda: [x], temperature, iterations))


def naive(x: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """The textbook form: exponentiate, then scale prototypes and samples in turn."""
    q = torch.exp(x / temperature).T  # (K, n)
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(dim=1, keepdim=True) * q.shape[0]
        q /= q.sum(dim=0, keepdim=True) * q.shape[1]
    return (q * q.shape[1]).T


small = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 1000)
counts = st.integers(1, 20)


@small
@given(rows=counts, prototypes=st.integers(2, 40), std=st.floats(0.01, 5), seed=seeds)
def test_t01_rows_sum_to_one(rows: int, prototypes: int, std: float, seed: int) -> None:
    assert (balanced(logits(rows, prototypes, std, seed)).sum(dim=1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize(("rows", "prototypes"), [(64, 16), (16, 64)])
def test_t02_prototypes_share_the_rows_equally_in_the_limit(rows: int, prototypes: int) -> None:
    masses = balanced(logits(rows, prototypes, 0.1), iterations=200).sum(dim=0)
    torch.testing.assert_close(masses, torch.full((prototypes,), rows / prototypes), rtol=0, atol=1e-3)


@pytest.mark.parametrize("rows", [1, 7])
def test_t03_identical_rows_give_the_uniform_target(rows: int) -> None:
    result = balanced(logits(1, 32, 1.0).expand(rows, 32))
    torch.testing.assert_close(result, torch.full((rows, 32), 1 / 32), rtol=1e-5, atol=0)


@small
@given(seed=seeds, constant=st.floats(-3, 3))
def test_t04_constants_do_not_matter(seed: int, constant: float) -> None:
    x = logits(9, 12, 0.1, seed)
    per_prototype = logits(1, 12, 1.0, seed + 1)
    torch.testing.assert_close(balanced(x + constant), balanced(x), rtol=0, atol=1e-4)
    torch.testing.assert_close(balanced(x + per_prototype), balanced(x), rtol=0, atol=1e-4)


@small
@given(seed=seeds)
def test_t04_permuted_samples_have_permuted_targets(seed: int) -> None:
    x = logits(10, 8, 0.3, seed)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(balanced(x[order]), balanced(x)[order], rtol=0, atol=1e-5)


@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
def test_t05_equals_the_textbook_form_where_that_is_finite(iterations: int) -> None:
    x = logits(24, 16, 0.1)
    torch.testing.assert_close(balanced(x, iterations=iterations), naive(x, T, iterations), rtol=0, atol=1e-5)


def test_t05_stays_finite_where_the_textbook_form_does_not() -> None:
    x = logits(24, 16, 5.0)
    assert not naive(x, T).isfinite().all()
    result = balanced(x)
    assert result.isfinite().all()
    assert (result.sum(dim=1) - 1).abs().max() < 1e-6


@small
@given(cuts=st.lists(st.integers(1, 29), max_size=4, unique=True), seed=seeds)
def test_t06_any_split_of_the_rows_gives_the_same_bias(cuts: list[int], seed: int) -> None:
    x = logits(30, 12, 0.3, seed)
    chunks = x.tensor_split(sorted(cuts))
    whole = sinkhorn_bias(lambda: [x], 0.1)
    torch.testing.assert_close(sinkhorn_bias(lambda: chunks, 0.1), whole, rtol=1e-6, atol=1e-5)


def test_t07_targets_are_a_softmax_with_one_bias_per_prototype() -> None:
    """The bias is recovered from the textbook result: ln target - X / T is r_k plus a constant of the row."""
    x = logits(24, 16, 0.1)
    rest = naive(x, T).log() - x / T
    rest = rest - rest[:, :1]
    assert (rest - rest[0]).abs().max() < 1e-4
    bias = sinkhorn_bias(lambda: [x], T)
    torch.testing.assert_close(rest[0], bias - bias[0], rtol=0, atol=1e-4)


def one_rank(folder: Path, rank: int) -> int:
    """One of two processes: its half of the rows, balanced together with the other's."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    x = logits(31, 12, 0.3)[:20] if rank == 0 else logits(31, 12, 0.3)[20:]
    bias = sinkhorn_bias(lambda: x.split(7), 0.1, group=dist.group.WORLD)
    torch.save(bias, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
    return 0


def test_t06_two_processes_balance_as_one(tmp_path: Path) -> None:
    assert start_together("test_sinkhorn:one_rank", tmp_path, [os.environ] * 2, timeout_seconds=120) == [0, 0]
    whole = sinkhorn_bias(lambda: [logits(31, 12, 0.3)], 0.1)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), whole, rtol=1e-6, atol=1e-5)


@small
@given(seed=seeds, std=st.floats(0.01, 20.0), iterations=st.integers(1, 6))
def test_the_bias_is_finite_and_that_of_the_two_step_form(seed: int, std: float, iterations: int) -> None:
    """Both halves of an iteration, written out as the formula has them."""
    x = logits(13, 9, std, seed).double() / T
    c = torch.zeros(13, 1, dtype=torch.float64)
    for _ in range(iterations):
        r = -torch.logsumexp(x + c, dim=0)
        c = -torch.logsumexp(x + r, dim=1, keepdim=True)
    bias = sinkhorn_bias(lambda: [logits(13, 9, std, seed)], T, iterations)
    assert bias.isfinite().all()
    torch.testing.assert_close(bias.double(), r, rtol=1e-5, atol=1e-3)


@small
@given(seed=seeds, std=st.floats(0.05, 0.3))
def test_t08_mean_entropy_cannot_fall_below_ln_k_over_n(seed: int, std: float) -> None:
    rows, prototypes = 8, 64
    result = balanced(logits(rows, prototypes, std, seed), iterations=50)
    assert torch.special.entr(result).sum(dim=1).mean() >= math.log(prototypes / rows) - 0.05


def test_logits_in_bf16_are_balanced_in_fp32() -> None:
    x = logits(24, 16, 0.3).bfloat16()
    bias = sinkhorn_bias(lambda: [x], T)
    assert bias.dtype == torch.float32
    assert torch.equal(bias, sinkhorn_bias(lambda: [x.float()], T))
    assert softmax_targets(x, T, bias).dtype == torch.float32


def test_no_gradient_is_recorded() -> None:
    x = logits(6, 4, 0.1).requires_grad_()
    assert not sinkhorn_bias(lambda: [x], T).requires_grad
