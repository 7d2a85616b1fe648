"""Schedules: published values, their shape, and that they count optimizer steps."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigrun.errors import UsageError
from bigrun.schedules import Schedule, Schedules, peak_learning_rate, training_schedules
from bigrun.sections import Data, Objective, Optimizer, RunSection, Teacher


def values(schedule: Schedule, steps: int) -> list[float]:
    return [schedule(step) for step in range(1, steps + 1)]


def test_t18_warmup_cosine_and_the_constant_beyond() -> None:
    schedule = Schedule(start=0, peak=1, end=0.1, warmup_steps=2, total_steps=5)
    assert values(schedule, 8) == pytest.approx([0, 0.5, 1, 0.55, 0.1, 0.1, 0.1, 0.1])


def test_t18_a_run_without_end_stays_at_the_peak() -> None:
    schedule = Schedule(start=0, peak=1, end=0.1, warmup_steps=2, total_steps=None)
    assert values(schedule, 5) == [0, 0.5, 1, 1, 1]
    assert schedule(10**9) == 1


def test_t18_zero_steps_hide_the_schedule_and_do_not_shift_it() -> None:
    schedule = Schedule(start=0.5, peak=1, end=0, warmup_steps=4, total_steps=10)
    frozen = attrs.evolve(schedule, zero_steps=3)
    assert values(frozen, 12) == [0, 0, 0, *values(schedule, 12)[3:]]


@pytest.mark.parametrize(
    ("warmup", "total", "expected"),
    [
        (4, 4, [0, 0.25, 0.5, 0.75, 0.1]),
        (3, 4, [0, 1 / 3, 2 / 3, 1, 0.1]),
        (0, 1, [1, 0.1]),
        (0, 2, [1, 0.1, 0.1]),
    ],
)
def test_runs_with_little_room_for_the_cosine(warmup: int, total: int, expected: list[float]) -> None:
    schedule = Schedule(start=0, peak=1, end=0.1, warmup_steps=warmup, total_steps=total)
    assert values(schedule, len(expected)) == pytest.approx(expected)


@settings(deadline=None, max_examples=25)
@given(warmup=st.integers(0, 20), rest=st.integers(2, 50), start=st.floats(0, 1), end=st.floats(0, 1))
def test_rises_to_the_peak_then_falls_to_the_end(warmup: int, rest: int, start: float, end: float) -> None:
    schedule = Schedule(start, 1.0, end, warmup, warmup + rest)
    series = values(schedule, warmup + rest)
    assert series[warmup] == 1
    assert series[-1] == pytest.approx(end, abs=1e-12)
    assert series[: warmup + 1] == sorted(series[: warmup + 1])
    assert series[warmup:] == sorted(series[warmup:], reverse=True)


@pytest.mark.parametrize(
    ("rule", "base", "batch", "peak"),
    [
        ("sqrt-1024", 1e-3, 2048, 5.657e-3),
        ("sqrt-1024", 5e-5, 4096, 4.0e-4),
        ("sqrt-1024", 3e-5, 4096, 2.4e-4),
        ("sqrt-1024", 1.25e-5, 2048, 7.07e-5),
        ("sqrt-1024", 2e-4 / 4, 3072, 3.464e-4),
        ("linear-256", 1e-3, 64, 2.5e-4),
        ("none", 1e-3, 4096, 1e-3),
    ],
)
def test_t18_learning_rates_of_published_runs(rule: str, base: float, batch: int, peak: float) -> None:
    section = Optimizer(base_lr=base, lr_rule=rule)  # type: ignore[arg-type]
    assert peak_learning_rate(section, batch) == pytest.approx(peak, rel=1e-3)


def of_run(
    steps: int | None = 100,
    optimizer: Optimizer | None = None,
    teacher: Teacher | None = None,
    batch: int = 256,
) -> dict[str, Schedule]:
    return training_schedules(
        RunSection(max_steps=steps),
        optimizer or Optimizer(lr_rule="none", warmup_steps=10, freeze_last_layer_steps=5),
        Objective(teacher_temperature_warmup_steps=20),
        teacher or Teacher(momentum=0.9, momentum_end=1.0),
        batch,
    )


def test_the_learning_rate_ends_at_its_fraction_of_the_scaled_peak() -> None:
    section = Optimizer(base_lr=1e-3, warmup_steps=10, lr_end_fraction=0.01, freeze_last_layer_steps=0)
    schedule = of_run(optimizer=section, batch=256)["learning_rate"]
    assert schedule(1) == 0
    assert schedule(11) == pytest.approx(2e-3)
    assert schedule(100) == pytest.approx(2e-5)


def test_t18_the_last_layer_is_frozen_and_then_follows_the_others() -> None:
    schedules = of_run()
    everything, last = (
        values(schedules["learning_rate"], 120),
        values(schedules["last_layer_learning_rate"], 120),
    )
    assert last[:5] == [0] * 5
    assert last[5:] == everything[5:]
    assert everything[4] > 0


def test_the_teacher_warms_up_and_slows_down() -> None:
    schedules = of_run()
    temperature, momentum = schedules["teacher_temperature"], schedules["teacher_momentum"]
    assert [temperature(step) for step in (1, 11, 21, 500)] == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert [momentum(step) for step in (1, 100, 500)] == pytest.approx([0.9, 1.0, 1.0])
    assert values(momentum, 100) == sorted(values(momentum, 100))


def test_weight_decay_is_constant_unless_it_has_an_end() -> None:
    assert set(values(of_run()["weight_decay"], 120)) == {0.04}
    section = Optimizer(warmup_steps=10, freeze_last_layer_steps=0, weight_decay_end=0.2)
    decay = of_run(optimizer=section)["weight_decay"]
    assert [decay(1), decay(100)] == pytest.approx([0.04, 0.2])


def test_a_run_without_end_has_constant_values_after_its_warmups() -> None:
    for schedule in of_run(steps=None, teacher=Teacher(momentum=0.99, momentum_end=0.99)).values():
        assert schedule(1000) == schedule(100_000)


def test_e5_schedules_depend_on_the_effective_batch_and_not_on_the_micro_batch() -> None:
    one, four = Data(effective_batch=64, micro_batch=64), Data(effective_batch=64, micro_batch=16)
    section = Optimizer(warmup_steps=10, freeze_last_layer_steps=5)
    assert of_run(optimizer=section, batch=one.effective_batch) == of_run(optimizer=section, batch=four.effective_batch)


def test_the_registry_holds_the_values_of_the_step_that_was_applied() -> None:
    schedules = Schedules()
    schedules.add("linear", lambda step: 2.0 * step)
    schedules.add("weight", Schedule(0, 1, 1, 4, 10))
    with pytest.raises(KeyError):
        schedules["linear"]
    schedules.apply(3)
    assert schedules.now == {"linear": 6.0, "weight": 0.5}
    assert schedules["linear"] == 6.0
    schedules.apply(4)
    assert schedules["weight"] == 0.75


def test_a_name_is_given_once() -> None:
    schedules = Schedules()
    schedules.add("weight", Schedule(0, 1, 1, 4, 10))
    with pytest.raises(UsageError, match="two schedules are named 'weight'"):
        schedules.add("weight", Schedule(0, 1, 1, 4, 10))
