"""rocm-tuning: how long TunableOp measures, and which kernels it may take."""

from __future__ import annotations

import inspect
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bigrun.model.block import kept_crops
from bigrun_rocm.config import RocmConfig
from bigrun_rocm.numerical_check import TOLERANCES, apply_check, plan_check
from bigrun_rocm.warm_up import Steps, WarmUp, steps_for

VARIABLE = "PYTORCH_TUNABLEOP_NUMERICAL_CHECK"
DECIDE = RocmConfig()

# -- how long -------------------------------------------------------------------------------------------------


def steps_of(warm_up: WarmUp, results: list[int]) -> int | None:
    """After how many steps it ends; None: not with these."""
    return next((step for step, count in enumerate(results, 1) if warm_up.after_step(count)), None)


@pytest.mark.parametrize(
    ("results", "ends"),
    [
        ([9, 9, 9, 9], 4),  # three quiet steps
        ([9, 9, 10, 10, 10, 10], 6),  # a size of crops that was rare
        ([0, 0, 0], 3),  # all were known from the file
        ([1, 2, 3, 4, 5, 6, 7, 8], 8),  # a new shape in every step
        ([9, 9, 9], None),
    ],
)
def test_it_ends_when_no_new_shapes_come_or_after_some_steps(results: list[int], ends: int | None) -> None:
    assert steps_of(WarmUp(most_steps=8, quiet_steps=3), results) == ends


def test_what_was_known_before_is_not_new() -> None:
    assert steps_of(WarmUp(8, 3, known=9), [9, 9, 9]) == 3
    assert steps_of(WarmUp(8, 3), [9, 9, 9]) is None


def test_one_that_is_cut_short_knows_it() -> None:
    for results, short in (([1, 2, 3, 4], True), ([1, 2, 3, 3], False), ([5, 5, 5, 5], False)):
        warm_up = WarmUp(most_steps=4, quiet_steps=3)
        assert steps_of(warm_up, results) == 4
        assert warm_up.was_cut_short == short
        assert warm_up.added_last == results[-1] - results[-2]


@given(st.lists(st.integers(0, 3), min_size=30, max_size=30), st.integers(1, 20), st.integers(1, 20))
def test_it_always_ends_in_time_and_never_while_shapes_come(new: list[int], most: int, quiet: int) -> None:
    results = [sum(new[: step + 1]) for step in range(len(new))]
    ends = steps_of(WarmUp(most, quiet), results)
    assert ends is not None
    assert ends <= most
    assert ends == most or not any(new[ends - quiet : ends])


def misses_one(steps: Steps, crops: tuple[int, int], drop_path_fraction: float, draws: random.Random) -> bool:
    """Whether a process with one micro-batch in a step measures no more while a combination was never kept."""
    global_, local = crops
    warm_up, seen = WarmUp(steps.most, steps.quiet), set()
    is_over = False
    while not is_over:
        draw = draws.random()
        seen.add(tuple(kept_crops(number, drop_path_fraction, draw) for number in (global_, local)))
        is_over = warm_up.after_step(len(seen))
    return len(seen) < 3


@pytest.mark.parametrize("drop_path_fraction", [0.1, 0.3, 0.4])  # of the presets
def test_few_processes_measure_no_more_before_stochastic_depth_has_shown_all_shapes(drop_path_fraction: float) -> None:
    draws = random.Random(0)
    misses = {
        steps: sum(misses_one(steps, (2 * 8, 8 * 8), drop_path_fraction, draws) for _ in range(1000)) / 1000
        for steps in (steps_for(0.0), steps_for(drop_path_fraction))
    }
    assert misses[steps_for(0.0)] > 0.2  # were they as few as without it
    assert misses[steps_for(drop_path_fraction)] < 0.04


# -- which kernels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", [(2, 9), (2, 10), (2, 13), (2, 15)])
def test_it_checks_unless_told_otherwise(release: tuple[int, int]) -> None:
    assert plan_check(release, {}, DECIDE, "bf16").value == "atol 1e-05, rtol 0.016"
    assert plan_check(release, {}, DECIDE, "fp32").value == "atol 1e-05, rtol 0.0001"
    assert not plan_check(release, {}, DECIDE, "bf16").is_custom
    off = plan_check(release, {}, RocmConfig(tunableop_numerical_check=False), "bf16")
    assert (off.value, off.is_custom) == ("off", True)
    own = plan_check(release, {"PYTORCH_TUNABLEOP_ENABLED": "1"}, DECIDE, "bf16")
    assert (own.value, own.is_custom) == (None, True)


@pytest.mark.parametrize(
    ("release", "value", "stops"),
    [
        ((2, 9), "1", False),
        ((2, 10), "1", True),  # torch: Expected 'atol_rtol'
        ((2, 13), "true", True),
        ((2, 13), "1e-3", True),
        ((2, 13), "0_1e-2", True),  # torch: must be positive
        ((2, 13), "x_y", True),
        ((2, 10), "0", False),
        ((2, 10), "1e-3_1e-2", False),
    ],
)
def test_a_variable_that_stops_torch_at_its_first_product_is_refused(
    release: tuple[int, int], value: str, stops: bool
) -> None:
    planned = plan_check(release, {VARIABLE: value}, DECIDE, "bf16")
    assert (planned.value, planned.is_custom) == (None, True)
    assert (planned.obstacle is not None) == stops
    assert planned.obstacle is None or "such as 1e-05_0.016, or 0" in planned.obstacle


def test_a_torch_without_the_function_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torch.cuda.tunable.set_numerical_check_tolerances")
    row, undo = apply_check(plan_check((2, 9), {}, DECIDE, "bf16"), "bf16")
    assert (row.took_effect, undo) == (False, None)
    assert f"{VARIABLE}=1" in row.evidence


def test_tolerances_are_given_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[bool, float, float]] = []

    def tolerances(enable: bool, atol: float = 1e-5, rtol: float = 1e-5) -> None:
        calls.append((enable, atol, rtol))

    name = "torch.cuda.tunable.set_numerical_check_tolerances"
    assert inspect.signature(torch.cuda.tunable.set_numerical_check_tolerances) == inspect.signature(
        tolerances, eval_str=True
    )
    monkeypatch.setattr(name, tolerances)
    row, undo = apply_check(plan_check((2, 13), {}, DECIDE, "bf16"), "bf16")
    assert undo is not None
    undo()
    assert calls == [(True, 1e-5, 1.6e-2), (False, 1e-5, 1e-5)]
    assert row.took_effect is None  # torch has no function that tells it
    assert apply_check(plan_check((2, 13), {VARIABLE: "0"}, DECIDE, "bf16"), "bf16")[1] is None
    assert len(calls) == 2


# What kernels compute, on this CPU: a sum of products in portions, one after the other. Tolerances should let pass
# every right way to sum in fp32, and no other.

ROWS, PRODUCTS = 256, 12864  # as for a gradient of weights: the tokens of 64 images


def summed(a: Tensor, b: Tensor, portion: int, partial: torch.dtype = torch.float32) -> Tensor:
    """a @ b in bf16, by sums in fp32 of products of bf16; portions of the sum are rounded to `partial`."""
    total = torch.zeros(len(a), b.shape[1])
    for first in range(0, a.shape[1], portion):
        part = a[:, first : first + portion] @ b[first : first + portion]
        total += part.to(partial).float()
    return total.to(torch.bfloat16)


def operands(size: float) -> tuple[Tensor, Tensor]:
    """Whose product has this root mean square."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(ROWS, PRODUCTS, generator=generator).bfloat16().float()
    b = torch.randn(PRODUCTS, ROWS, generator=generator) * size / PRODUCTS**0.5
    return a, b.bfloat16().float()


def passes(reference: Tensor, result: Tensor) -> bool:
    """As torch compares them (ATen/cuda/tunable/GemmCommon.h)."""
    tolerances = TOLERANCES["bf16"]
    return torch.allclose(reference.float(), result.float(), tolerances.rtol, tolerances.atol)


@pytest.mark.parametrize("size", [1e-3, 1.0, 8.0])
def test_every_order_of_a_sum_passes_and_what_is_wrong_does_not(size: float) -> None:
    a, b = operands(size)
    right = summed(a, b, PRODUCTS)
    other = summed(a, b, 16)  # as matrix instructions sum
    assert not torch.equal(right, other)
    assert passes(right, other)
    assert passes(right, summed(a, b, PRODUCTS // 8))
    assert not passes(right, summed(a[:, :-32], b[:-32], 16))  # the last portion is lost
    assert not passes(right, torch.full_like(right, float("nan")))
    if size >= 1:
        assert not passes(right, summed(a, b, PRODUCTS // 8, torch.bfloat16))


def test_tolerances_of_bf16_are_those_of_torch_testing() -> None:
    from torch.testing._comparison import default_tolerances

    rtol, atol = default_tolerances(torch.bfloat16)
    assert (TOLERANCES["bf16"].rtol, TOLERANCES["bf16"].atol) == (rtol, atol)
