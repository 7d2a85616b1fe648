"""Centring: what the bias is made of, and what a step leaves for the next (E4 of the recipe)."""

from __future__ import annotations

import os
import warnings
import weakref
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bigrun.objective import centring
from bigrun.objective import targets as chunks
from bigrun.objective.centring import SinkhornKnopp, SoftmaxCentring
from bigrun.objective.sinkhorn import sinkhorn_bias
from bigrun.testing.forker import start_together

T = 0.05
PROTOTYPES = torch.randn(24, 6, generator=torch.Generator().manual_seed(9))


def rows(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def balanced(*parts: Tensor) -> Tensor:
    logits = torch.cat(parts) @ PROTOTYPES.mT
    return sinkhorn_bias(lambda: [logits], T, 3)


@pytest.mark.parametrize("elements", [1, 100, 10_000])
@pytest.mark.parametrize("kept", [0, 10_000])
def test_sinkhorn_balances_all_rows_of_the_step_in_any_split(
    elements: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", elements)
    monkeypatch.setattr(centring, "KEPT_ELEMENTS", kept)
    x = rows(20)
    bias = SinkhornKnopp(3, 6).bias(x.split([3, 12, 5]), PROTOTYPES, T)
    torch.testing.assert_close(bias, balanced(x), rtol=1e-5, atol=1e-5)


def test_sinkhorn_without_a_queue_has_no_state() -> None:
    assert not SinkhornKnopp(3, 6).state_dict()


def test_the_queue_holds_the_newest_rows_of_committed_steps() -> None:
    sinkhorn = SinkhornKnopp(3, 6, queue_rows=10)
    steps = [rows(4, seed) for seed in range(4)]
    torch.testing.assert_close(sinkhorn.bias([steps[0]], PROTOTYPES, T), balanced(steps[0]))
    sinkhorn.commit()
    for step in (1, 2, 3):
        past = torch.cat(steps[step - 1 :: -1])[:10]
        bias = sinkhorn.bias(steps[step].split(2), PROTOTYPES, T)
        torch.testing.assert_close(bias, balanced(steps[step], past), rtol=1e-5, atol=1e-5)
        sinkhorn.commit()
    assert sinkhorn.filled == 10
    assert torch.equal(sinkhorn.queue, torch.cat(steps[3:0:-1])[:10])


def one_rank(folder: Path, rank: int) -> int:
    """One of two processes: its half of each step, with every warning of torch an error."""
    warnings.simplefilter("error")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    sinkhorn = SinkhornKnopp(3, 6, queue_rows=10)
    sinkhorn.group = dist.group.WORLD
    for step in range(3):
        sinkhorn.bias([rows(8, step)[4 * rank : 4 * rank + 4]], PROTOTYPES, T)
        sinkhorn.commit()
    torch.save(sinkhorn.queue, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
    return 0


def test_the_queue_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """And torch (2.10 to 2.13) warns of no collective in it."""
    assert start_together("test_centring:one_rank", tmp_path, [os.environ] * 2, timeout_seconds=120) == [0, 0]
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt"), torch.cat([rows(8, 2), rows(8, 1)])[:10])


def test_a_step_that_was_skipped_leaves_queue_and_centre_alone() -> None:
    sinkhorn, softmax = SinkhornKnopp(3, 6, queue_rows=8), SoftmaxCentring(24, 0.9)
    for each in (sinkhorn, softmax):
        each.bias([rows(4)], PROTOTYPES, T)
        before = {name: value.clone() for name, value in each.state_dict().items()}
        each.bias([rows(4, seed=1) * torch.nan], PROTOTYPES, T)  # not committed
        assert all(torch.equal(value, before[name]) for name, value in each.state_dict().items())
    torch.testing.assert_close(sinkhorn.bias([rows(4)], PROTOTYPES, T), balanced(rows(4)))


def test_the_centre_is_an_average_of_mean_logits_that_a_step_does_not_see_of_itself() -> None:
    softmax, expected = SoftmaxCentring(24, 0.9), torch.zeros(24)
    for step in range(3):
        x = rows(7, seed=step)
        bias = softmax.bias(x.split(3), PROTOTYPES, T)
        torch.testing.assert_close(bias, -expected / T)
        expected = 0.9 * expected + 0.1 * (x @ PROTOTYPES.mT).mean(0)
        softmax.commit()
        torch.testing.assert_close(softmax.centre, expected, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(1, 15), max_size=3, unique=True), seed=st.integers(0, 1000))
def test_e4_the_centre_after_the_window_is_that_of_one_big_batch(cuts: list[int], seed: int) -> None:
    x, whole, parts = rows(16, seed), SoftmaxCentring(24, 0.9), SoftmaxCentring(24, 0.9)
    for each, split in ((whole, [x]), (parts, x.tensor_split(sorted(cuts)))):
        each.bias(list(split), PROTOTYPES, T)
        each.commit()
    torch.testing.assert_close(parts.centre, whole.centre, rtol=1e-5, atol=1e-6)
    assert whole.centre.abs().max() > 1e-3


def test_no_row_leaves_the_centre_alone() -> None:
    softmax = SoftmaxCentring(24, 0.9)
    assert torch.equal(softmax.bias([rows(0)], PROTOTYPES, T), torch.zeros(24))
    softmax.commit()
    assert torch.equal(softmax.centre, torch.zeros(24))


@pytest.mark.parametrize("queued", [0, 128])
def test_the_logits_of_all_rows_are_not_kept_when_they_are_many(queued: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of micro-batches and of the queue together count."""
    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", 2**16)
    monkeypatch.setattr(centring, "KEPT_ELEMENTS", 2**19)
    count, prototypes = 256 - queued, torch.randn(4096, 6, generator=torch.Generator().manual_seed(9))
    sinkhorn = SinkhornKnopp(3, 6, queued)
    if queued:
        sinkhorn.bias([rows(queued)], prototypes, T)
        sinkhorn.commit()
    with LiveElements() as live:
        sinkhorn.bias(rows(count, seed=1).split(count // 4), prototypes, T)
    assert live.highest < 256 * 4096 / 2  # three chunks, and 4096 masses of each


def test_the_logits_of_few_rows_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunks.CHUNK_ELEMENTS, "cpu", 5 * 24)
    for kept, times in ((20 * 24, 1), (20 * 24 - 1, 3)):
        monkeypatch.setattr(centring, "KEPT_ELEMENTS", kept)
        with LiveElements() as live:
            SinkhornKnopp(3, 6).bias(rows(20).split(10), PROTOTYPES, T)
        assert live.products == times * 4


class LiveElements(torch.utils._python_dispatch.TorchDispatchMode):
    """How many numbers the results of all operations held at the most, and how many were products of matrices."""

    highest = products = 0

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        self.products += func is torch.ops.aten.mm.default
        if isinstance(out, Tensor):
            self.alive.append(weakref.ref(out))
        self.alive = [ref for ref in self.alive if ref() is not None]
        tensors = [tensor for ref in self.alive if (tensor := ref()) is not None]
        sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() // 4 for tensor in tensors}
        self.highest = max(self.highest, sum(sizes.values()))
        return out


def test_the_centre_is_fp32_under_autocast() -> None:
    """Prototypes arrive in bf16; their mean logits, the centre and the bias do not round further."""
    exact, low = SoftmaxCentring(24, 0.9), SoftmaxCentring(24, 0.9)
    rounded = PROTOTYPES.bfloat16()
    for step in range(3):
        x = rows(7, seed=step).split(3)
        expected = exact.bias(x, rounded.float(), T)
        with torch.autocast("cpu", torch.bfloat16):
            bias = low.bias(x, rounded, T)
        assert bias.dtype == torch.float32
        torch.testing.assert_close(bias, expected)
        for each in (exact, low):
            each.commit()
    assert low.centre.dtype == torch.float32
    torch.testing.assert_close(low.centre, exact.centre)
    assert low.centre.abs().max() > 1e-3
