"""Schedules: published values, their shape, and that they count optimizer steps."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigrun import hookimpl
from bigrun.errors import UsageError
from bigrun.rules import EngineConfig, choose
from bigrun.run import Run
from bigrun.schedules import Schedule, Schedules, peak_learning_rate, training_schedules
from bigrun.sections import Data, Objective, Optimizer, RunSection, ScheduleSection, Teacher
from bigrun.testing.runner import Runner

V1 = ScheduleSection(form="v1")
NAMES = {"learning_rate", "last_layer_learning_rate", "weight_decay", "student_temperature", "teacher_temperature",
         "teacher_momentum", "local_weight"}  # fmt: skip


def values(schedule: Schedule, steps: int) -> list[float]:
    return [schedule(step) for step in range(1, steps + 1)]


def test_t18_warmup_cosine_and_the_constant_beyond() -> None:
    schedule = Schedule(start=0, peak=1, end=0.1, warmup_steps=2, total_steps=5)
    assert values(schedule, 8) == pytest.approx([0, 0.5, 1, 0.55, 0.1, 0.1, 0.1, 0.1])


def test_t18_a_run_without_end_stays_at_the_peak() -> None:
    schedule = Schedule(start=0, peak=1, end=0.1, warmup_steps=2, total_steps=None)
    assert values(schedule, 5) == [0, 0.5, 1, 1, 1]
    assert schedule(10**9) == 1


def test_t18_form_v2_with_a_cosine_shorter_than_the_run() -> None:
    schedule = Schedule(0, 1, 0.1, 2, 8, course=ScheduleSection(cosine_steps=3))
    assert values(schedule, 10) == pytest.approx([0, 0.5, 1, 0.55, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    endless = attrs.evolve(schedule, total_steps=None)  # the cosine has a length of its own
    assert values(endless, 10) == values(schedule, 10)


def test_t18_form_v1() -> None:
    schedule = Schedule(0, 1, 0.1, 4, 10, course=V1)
    expected = [0, 1 / 3, 2 / 3, 1, 1, 0.9397, 0.775, 0.55, 0.325, 0.1603, 0.1, 0.1]
    assert values(schedule, 12) == pytest.approx(expected, abs=5e-5)
    assert values(attrs.evolve(schedule, total_steps=None), 6) == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1])


@pytest.mark.parametrize(("warmup", "expected"), [(0, [1, 0.55, 0.1]), (1, [0, 1, 0.1]), (2, [0, 1, 0.1])])
def test_form_v1_with_little_room(warmup: int, expected: list[float]) -> None:
    assert values(Schedule(0, 1, 0.1, warmup, 2, course=V1), 3) == pytest.approx(expected)


def test_form_v1_with_a_cosine_that_is_cut_ends_exactly_at_the_end_and_still_falls_there() -> None:
    """5 values of the 10 that a cosine of twice the length has, scaled to go from 1 to 0.1."""
    course = ScheduleSection(form="v1", trunc_extra_fraction=1.0)
    cosine = [math.cos(math.pi * i / 9) for i in range(5)]
    expected = [0.1 + 0.9 * (c - cosine[4]) / (1 - cosine[4]) for c in cosine]
    assert values(Schedule(0, 1, 0.1, 0, 5, course=course), 6) == pytest.approx([*expected, 0.1])
    long, cut = (Schedule(0, 1, 0, 0, 1000, course=attrs.evolve(course, trunc_extra_fraction=e)) for e in (0, 0.2))
    assert long(990) < 3e-4
    assert cut(990) > 5 * long(990)
    assert values(Schedule(0, 1, 0.1, 0, 1, course=course), 2) == [1, 0.1]


def test_a_warmup_along_a_cosine_has_the_same_ends() -> None:
    schedule = Schedule(0, 1, 1, 4, None, cosine_warmup=True)
    assert values(schedule, 6) == pytest.approx([0, 0.146447, 0.5, 0.853553, 1, 1], abs=1e-6)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("linear", [0.75, 0.5, 0.25, 0]),
        ("cosine", [0.853553, 0.5, 0.146447, 0]),
        ("sqrt", [0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75), 0]),
    ],
)
def test_a_cooldown_follows_its_formula(form: Any, expected: list[float]) -> None:
    """N = 4 of T = 10 steps: `peak` until step 6, `end` at step 10."""
    course = ScheduleSection(cooldown_steps=4, cooldown_form=form)
    schedule = Schedule(0, 1, 0.2, 2, 10, course=course)
    assert values(schedule, 6) == [0, 0.5, 1, 1, 1, 1]
    assert values(schedule, 12)[6:] == pytest.approx([0.2 + 0.8 * left for left in [*expected, 0, 0]], abs=1e-6)
    assert schedule(10) == 0.2


@settings(deadline=None, max_examples=30)
@given(
    form=st.sampled_from(["linear", "cosine", "sqrt"]),
    steps=st.integers(1, 60),
    before=st.integers(1, 60),
    warmup=st.integers(0, 20),
    end=st.floats(0, 1),
)
def test_until_its_cooldown_a_run_is_one_without_end(
    form: Any, steps: int, before: int, warmup: int, end: float
) -> None:
    course = ScheduleSection(cooldown_steps=steps, cooldown_form=form)
    cooled = Schedule(0, 1.0, end, warmup, warmup + before + steps, course=course)
    endless = attrs.evolve(cooled, total_steps=None)
    start = warmup + before
    assert values(cooled, start) == values(endless, start)
    fall = values(cooled, start + steps)[start:]
    assert fall == sorted(fall, reverse=True)
    assert fall[-1] == end
    assert fall[0] <= 1


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
    schedule: ScheduleSection | None = None,
    objective: Objective | None = None,
    data: Data | None = None,
) -> dict[str, Schedule]:
    config = EngineConfig(
        run=RunSection(max_steps=steps),
        data=data or Data(effective_batch=256),
        optimizer=optimizer or Optimizer(lr_rule="none", warmup_steps=10, freeze_last_layer_steps=5),
        objective=objective or Objective(teacher_temperature_warmup_steps=20),
        teacher=teacher or Teacher(momentum=0.9),
        schedule=schedule or ScheduleSection(),
    )
    return training_schedules(choose(config)[0])


def test_the_learning_rate_ends_at_its_fraction_of_the_scaled_peak() -> None:
    section = Optimizer(base_lr=1e-3, warmup_steps=10, lr_end_fraction=0.01, freeze_last_layer_steps=0)
    schedule = of_run(optimizer=section)["learning_rate"]
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
    for schedule in of_run(steps=None, teacher=Teacher(momentum=0.99)).values():
        assert schedule(1000) == schedule(100_000)


def test_only_learning_rates_fall_in_a_cooldown() -> None:
    cooled = of_run(schedule=ScheduleSection(cooldown_steps=20))
    endless = of_run(steps=None)
    assert set(cooled) == NAMES
    for name, schedule in cooled.items():
        assert values(schedule, 80) == values(endless[name], 80), name
        assert (schedule(100) == endless[name](100)) == ("learning_rate" not in name), name
    last = values(cooled["last_layer_learning_rate"], 100)
    assert last[:5] == [0] * 5
    assert last[5:] == values(cooled["learning_rate"], 100)[5:]


def test_t18_the_rule_scales_the_end_in_form_v2_and_the_peak_alone_in_v1() -> None:
    section = Optimizer(base_lr=1e-3, lr_end_fraction=0.001, warmup_steps=10, freeze_last_layer_steps=0)
    both = {}
    for form in ("v1", "v2"):
        schedule = ScheduleSection(form=form)  # type: ignore[arg-type]
        both[form] = of_run(optimizer=section, schedule=schedule, data=Data(effective_batch=4096))["learning_rate"]
    assert [schedule.peak for schedule in both.values()] == pytest.approx([8e-3, 8e-3])
    assert both["v1"](101) == pytest.approx(1e-6)
    assert both["v2"](101) == pytest.approx(8e-6)


def test_t18_the_published_vit_large_recipe() -> None:
    """arXiv 2508.10104's public configuration for ViT-L on ImageNet-1k: 100 epochs of 1250 steps, form v1."""
    schedules = of_run(
        steps=125_000,
        data=Data(effective_batch=2048),
        optimizer=Optimizer(
            base_lr=1e-3, warmup_steps=12_500, freeze_last_layer_steps=1250, weight_decay=0.04, weight_decay_end=0.4
        ),
        objective=Objective(teacher_temperature_warmup_steps=37_500),
        teacher=Teacher(momentum=0.992, momentum_end=1.0),
        schedule=V1,
    )
    rate, last = schedules["learning_rate"], schedules["last_layer_learning_rate"]
    peak = 4e-3 * math.sqrt(2)
    assert [rate(step) for step in (1, 12_500, 12_501)] == pytest.approx([0, peak, peak])
    assert rate(6250) == pytest.approx(peak * 6249 / 12_499)
    assert rate(12_501 + 56_250) == pytest.approx((peak + 1e-6) / 2)
    assert 1e-6 < rate(125_000) < 1.01e-6
    assert rate(125_001) == pytest.approx(1e-6)
    assert [last(1250), last(1251)] == [0, rate(1251)]
    decay, momentum = schedules["weight_decay"], schedules["teacher_momentum"]
    assert [decay(1), decay(62_501), decay(125_001)] == pytest.approx([0.04, 0.22, 0.4])
    assert [momentum(1), momentum(62_501), momentum(125_001)] == pytest.approx([0.992, 0.996, 1.0])
    temperature = schedules["teacher_temperature"]
    assert [temperature(1), temperature(37_500), temperature(125_000)] == pytest.approx([0.04, 0.07, 0.07])


@pytest.mark.parametrize("steps", [1_000_000, None])
def test_t18_the_published_7b_recipe(steps: int | None) -> None:
    """The public configuration of the 7B pre-training: everything is constant after 100,000 steps."""
    schedules = of_run(
        steps=steps,
        data=Data(effective_batch=4096),
        optimizer=Optimizer(
            base_lr=5e-5, lr_end_fraction=1.0, warmup_steps=100_000, freeze_last_layer_steps=5000, weight_decay=0.04
        ),
        objective=Objective(teacher_temperature_warmup_steps=100_000),
        teacher=Teacher(momentum=0.994, momentum_end=0.994),
    )
    rate, temperature = schedules["learning_rate"], schedules["teacher_temperature"]
    assert [rate(1), rate(50_001)] == pytest.approx([0, 2e-4])
    assert [temperature(1), temperature(50_001)] == pytest.approx([0.04, 0.055])
    assert [schedules["last_layer_learning_rate"](step) for step in (5000, 5001)] == pytest.approx([0, 2e-5])
    constants = {"learning_rate": 4e-4, "weight_decay": 0.04, "teacher_momentum": 0.994, "teacher_temperature": 0.07}
    for name, constant in constants.items():
        late = [schedules[name](step) for step in (100_001, 500_000, 999_999, 1_000_000)]
        assert late == [late[0]] * 4
        assert late[0] == pytest.approx(constant)
    assert schedules["weight_decay"](1) == 0.04


def test_t18_the_published_high_resolution_recipe() -> None:
    """The public configuration of the 7B adaptation: half a cosine upwards over 10,000 steps, then constant."""
    rate = of_run(
        steps=30_000,
        data=Data(effective_batch=2048),
        optimizer=Optimizer(
            base_lr=1.25e-5, lr_end_fraction=1.0, warmup_form="cosine", warmup_steps=9999, freeze_last_layer_steps=0
        ),
        objective=Objective(teacher_temperature_start=0.07, teacher_temperature_warmup_steps=0),
        teacher=Teacher(momentum=0.999, momentum_end=0.999),
    )["learning_rate"]
    written = Schedule(0, 0, rate.peak, 0, 30_000, course=ScheduleSection(cosine_steps=10_000))  # as v2 spells it
    assert rate.peak == pytest.approx(7.07e-5, rel=1e-3)
    for step in (1, 2, 2500, 5000, 9999, 10_000, 10_001, 30_000):
        assert rate(step) == pytest.approx(written(step), rel=1e-9)
    assert [rate(1), rate(10_000), rate(30_000)] == [0, rate.peak, rate.peak]


def test_t18_a_cosine_of_its_own_length_is_that_of_every_schedule() -> None:
    section = Optimizer(lr_rule="none", warmup_steps=10, freeze_last_layer_steps=0, weight_decay_end=0.2)
    for steps in (100, None):
        schedules = of_run(steps=steps, optimizer=section, schedule=ScheduleSection(cosine_steps=30))
        rate, decay = schedules["learning_rate"], schedules["weight_decay"]
        assert [rate(11), rate(39), rate(40), rate(90)] == [1e-3, pytest.approx(4.0e-6, rel=0.1), 1e-6, 1e-6]
        assert [decay(1), decay(30), decay(90)] == pytest.approx([0.04, 0.2, 0.2])
        assert schedules["teacher_momentum"](90) == 0.9  # at 1 the teacher would stand still from step 30 on


@pytest.mark.parametrize("accumulate", [1, 2])
def test_e5_schedules_depend_on_the_step_and_not_on_the_micro_batches_behind_it(
    bigrunner: Runner, accumulate: int
) -> None:
    """The optimizer's own values, step by step, are those of the formula whatever A is."""
    seen: list[tuple[float, ...]] = []

    class Watch:
        @hookimpl
        def before_update(self, run: Run) -> None:
            group = next(g for g in run.optimizer.param_groups if g["weight_decay_factor"] and not g["last_layer"])
            seen.append((group["lr"], group["weight_decay"], run.schedules["teacher_momentum"]))

    section = {"warmup_steps": 2, "freeze_last_layer_steps": 0, "layer_decay": 1.0, "patch_embed_lr_factor": 1.0,
               "weight_decay_end": 0.2}  # fmt: skip
    result = bigrunner.run(steps=5, accumulate=accumulate, companions=[Watch()], optimizer=section)
    result.assert_finished()
    assert result.run is not None
    schedules = training_schedules(result.run.config)
    names = ("learning_rate", "weight_decay", "teacher_momentum")
    assert seen == [tuple(schedules[name](step) for name in names) for step in range(1, 6)]
    assert len({row[:2] for row in seen}) == 5
    one, four = (Data(effective_batch=64, micro_batch=micro) for micro in (64, 16))
    assert [of_run(data=one)[name] for name in names] == [of_run(data=four)[name] for name in names]


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


def test_an_adjustment_changes_the_value_that_the_schedule_gives() -> None:
    schedules = Schedules()
    schedules.add("weight", Schedule(0, 1, 1, 4, 10))
    schedules.add("other", Schedule(1, 1, 1, 0, 10))
    schedules.adjust("weight", lambda step, value: value + step)
    schedules.adjust("weight", lambda step, value: 10 * value)  # in the order of registration
    schedules.apply(3)
    assert schedules.now == {"weight": 10 * (0.5 + 3), "other": 1}


def test_only_a_schedule_that_there_is_can_be_adjusted() -> None:
    schedules = Schedules()
    schedules.add("local_weight", Schedule(1, 1, 1, 0, None))
    with pytest.raises(UsageError, match="no schedule is named 'local_wieght' - did you mean 'local_weight'"):
        schedules.adjust("local_wieght", lambda step, value: value)
