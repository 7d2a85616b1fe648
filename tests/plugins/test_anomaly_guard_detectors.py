"""The detectors of anomaly-guard, given numbers alone: what they see, and what they must not see."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import attrs
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from bigrun.evaluation.facts import Facts
from bigrun.evaluation.rank import rank_me
from bigrun_guard.conditions import Over
from bigrun_guard.config import GuardConfig
from bigrun_guard.guard import Guard
from bigrun_guard.rank import RankMeter
from bigrun_guard.window import Window

FACTS = Facts(warmup_steps=0, release_step=None, rows=128, log_every_steps=10, is_fresh=True, prototypes=256)
HEALTHY = {
    "loss": 5.0, "target_entropy_fraction": 0.7, "patch_target_entropy_fraction": 0.8, "student_divergence": 0.5,
    "marginal_entropy_fraction": 0.99, "prototypes_used_fraction": 0.6, "class_spread": 0.8, "patch_cosine": 0.4,
    "class_patch_cosine": 0.2, "koleo": -0.2,
}  # fmt: skip


def noise(count: int, seed: int = 0, spread: float = 0.02) -> list[float]:
    return (5.0 * np.exp(np.random.default_rng(seed).normal(0, spread, count))).tolist()


def feed(guard: Guard, losses: list[float], first: int = 1, norm: float = 1.0) -> list[tuple[str, int]]:
    """Steps with these losses; one with an anomaly is skipped. (kind, step) of what was said."""
    said = []
    for step, loss in enumerate(losses, first):
        found = list(guard.before_update(step, {"loss": loss, "grad_norm": norm}))
        if not found:
            found += guard.after_update(step, ())
        for anomaly in found:
            guard.answer(anomaly.kind, step)
        said += [(anomaly.kind, step) for anomaly in found]
    return said


def guard_of(facts: Facts = FACTS, **options: Any) -> Guard:
    return Guard(GuardConfig(**options), facts)


# -- the window ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.1, 100), min_size=10, max_size=60), st.floats(1e-3, 1e3))
def test_a_deviation_does_not_depend_on_the_unit(values: list[float], unit: float) -> None:
    plain, scaled = Window(60, values), Window(60, [v * unit for v in values])
    first, second = plain.deviation(50.0, 1.25, 6.0), scaled.deviation(50.0 * unit, 1.25, 6.0)
    assert second.z == pytest.approx(first.z, rel=1e-6, abs=1e-6)
    assert second.median == pytest.approx(first.median * unit)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.floats(10, 1e6))
def test_a_few_outliers_hide_no_spike(seed: int, outlier: float) -> None:
    window = Window(100, [*noise(80, seed), *[5.0 * outlier] * 20])
    assert window.deviation(50.0, 1.25, 6.0).z > 6
    assert window.deviation(5.0, 1.25, 6.0).z < 1


def test_a_spread_of_zero_has_a_floor() -> None:
    window = Window(100, [5.0] * 50)
    assert window.deviation(5.0 * 1.24, 1.25, 6.0).z < 6 < window.deviation(5.0 * 1.26, 1.25, 6.0).z


def test_losses_below_zero_are_measured_as_they_are() -> None:
    window = Window(100, [-0.9 + 0.01 * (i % 5) for i in range(50)])
    assert window.deviation(-0.8, 1.25, 6.0).z < 6 < window.deviation(2.0, 1.25, 6.0).z


# -- spikes --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.integers(30, 300), st.integers(0, 10_000))
def test_a_tenfold_spike_at_any_step_is_seen(at: int, seed: int) -> None:
    losses = noise(at + 60, seed, spread=0.05)
    losses[at] *= 10
    assert feed(guard_of(), losses) == [("loss-spike", at + 1)]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_ten_thousand_steps_of_heavy_noise_drift_and_decay_are_no_spikes(seed: int) -> None:
    """A loss that rises with one warm-up, falls, drifts and waves; gradient norms that vary by a factor of 4."""
    rng, count = np.random.default_rng(seed), 10_000
    time = np.arange(count) / count
    course = 5 + 3 * np.minimum(time * 5, 1) - 4 * time**2 + 0.5 * np.sin(time * 40)
    losses = (course * np.exp(rng.normal(0, 0.05, count))).tolist()
    norms = np.exp(rng.normal(0, 0.35, count) + 2 * time - 3 * np.maximum(time - 0.8, 0)).tolist()
    guard, said = guard_of(), []
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1):
        said += guard.before_update(step, {"loss": loss, "grad_norm": norm})
        list(guard.after_update(step, ()))  # which may find that the loss has risen
    assert said == []


def test_a_spike_of_the_gradient_norm_is_seen_alone() -> None:
    guard = guard_of()
    feed(guard, noise(60))
    (anomaly,) = guard.before_update(61, {"loss": 5.0, "grad_norm": 20.0})
    assert anomaly.kind == "gradient-spike"
    assert anomaly.evidence["grad_norm"] == 20.0
    assert anomaly.causes
    assert anomaly.advice


def test_less_than_nothing_is_no_spike() -> None:
    guard = guard_of()
    feed(guard, noise(60))
    assert list(guard.before_update(61, {"loss": 0.05, "grad_norm": 1e-4})) == []


def test_a_step_that_was_skipped_enters_no_window_and_the_detector_works_60_steps_later() -> None:
    guard = guard_of()
    feed(guard, noise(100))
    before = guard.state_dict()["spikes"]
    assert list(guard.before_update(101, {"loss": math.nan, "grad_norm": math.inf})) == []
    assert len(list(guard.before_update(102, {"loss": 50.0, "grad_norm": 20.0}))) == 2
    assert guard.state_dict()["spikes"] == before
    assert feed(guard, noise(58, 1), first=103) == []
    assert feed(guard, [50.0], first=161) == [("loss-spike", 161)]


def test_a_norm_of_more_parameters_is_no_spike() -> None:
    """The backbone that is let go at step 51 multiplies the norm."""
    released = attrs.evolve(FACTS, release_step=51)
    guard = guard_of(released)
    assert feed(guard, noise(50)) == []
    assert feed(guard, noise(50), first=51, norm=30.0) == []
    assert feed(guard_of(), noise(50)) + feed(guard_of(), noise(50), first=51, norm=30.0) == []
    kept = guard_of()
    feed(kept, noise(50))
    assert feed(kept, noise(1), first=51, norm=30.0) == [("gradient-spike", 51)]


# -- the ladder ----------------------------------------------------------------------------------------------------


def test_isolated_spikes_are_skipped_and_repeated_ones_go_back() -> None:
    guard = guard_of(repeat_within_steps=10)
    answers = [guard.answer("loss-spike", step) for step in (100, 105, 120, 131, 135, 140, 141, 200)]
    assert answers == ["skip", "skip", "skip", "skip", "skip", "roll-back", "roll-back", "skip"]
    assert guard.answer("of-somebody-else", 100) is None


def test_the_onset_is_the_first_step_of_the_streak() -> None:
    guard = guard_of(repeat_within_steps=10)
    feed(guard, noise(60))
    onsets = []
    for step in (61, 75, 76, 77):
        (anomaly,) = guard.before_update(step, {"loss": 50.0, "grad_norm": 1.0})
        guard.answer(anomaly.kind, step)
        onsets.append(anomaly.onset)
    assert onsets == [61, 75, 75, 75]


def test_a_condition_that_lasts_climbs_its_ladder_with_every_reminder_and_begins_anew_when_it_was_over() -> None:
    guard = guard_of(entropy_wall=("warn", "save", "halt"), remind_steps=100, settle_steps=0, hold_steps=10)
    said = []
    for step in range(10, 1000, 10):
        entropy = 0.995 if step < 400 or step > 600 else 0.7
        row = {"loss": 5.0 + step, "student_divergence": 0.02, "target_entropy_fraction": entropy}
        for anomaly in guard.on_metrics(step, {**HEALTHY, **row}):
            said.append((step, guard.answer(anomaly.kind, step)))
    once = ["warn", "save", "halt", "halt"]
    assert said == [*zip((20, 120, 220, 320), once, strict=True), *zip((620, 720, 820, 920), once, strict=True)]


def test_a_condition_is_over_when_it_has_not_held_for_as_long_as_it_must_and_then_a_new_one() -> None:
    guard = guard_of(settle_steps=0, hold_steps=20, remind_steps=60)
    said: list[Any] = []
    for step in range(10, 350, 10):
        is_bad = (step <= 160 and step != 110) or step >= 300  # at 110 it is gone for a moment
        found = guard.on_metrics(step, {**HEALTHY, "loss": 5.0 + step, "class_spread": 0.2 if is_bad else 0.8})
        said += [(step, anomaly.kind, anomaly.onset, anomaly.lasts) for anomaly in found]
        said += [(step, over) for over in guard.take_over()]
    over = Over("near-collapse", 10, ("class_spread",))
    told = [(step, "near-collapse", 10, True) for step in (30, 90, 150)]
    assert said == [*told, (190, over), (320, "near-collapse", 300, True)]


def test_a_module_that_learns_again_is_said() -> None:
    guard = guard_of(dead_module_steps=20)
    norms(guard, range(1, 140), head=0.1)
    assert norms(guard, range(140, 200), head=0.0) == [("dead-module", 160)]
    norms(guard, range(200, 220), head=0.1)
    assert guard.take_over() == []
    norms(guard, range(220, 240), head=0.1)
    assert guard.take_over() == [Over("dead-module", 140, ("grad_norm/head", "typical"))]


def test_two_signs_of_one_thing_are_one_occurrence() -> None:
    guard = guard_of(near_collapse=("warn", "halt"), settle_steps=0, hold_steps=10, remind_steps=50)
    row = {**HEALTHY, "class_spread": 0.2, "patch_cosine": 0.95}
    said = [
        (step, guard.answer(anomaly.kind, step))
        for step in range(10, 100, 10)
        for anomaly in guard.on_metrics(step, {**row, "loss": 5.0 + step})
    ]
    assert said == [(20, "warn"), (20, "warn"), (70, "halt"), (70, "halt")]


# -- indicators ----------------------------------------------------------------------------------------------------


def judged(values: Mapping[str, float], facts: Facts = FACTS, steps: int = 1300, **options: Any) -> dict[str, str]:
    """Kind -> message and causes of everything that rows with these values show in so many steps."""
    guard = guard_of(facts, settle_steps=0, **options)
    found: dict[str, str] = {}
    for step in range(10, steps, 10):
        for anomaly in guard.on_metrics(step, {**HEALTHY, "loss": 5.0 + step / 10, **values}):
            found.setdefault(anomaly.kind, "; ".join([anomaly.message, *anomaly.causes]))
    return found


def test_healthy_numbers_show_nothing_and_missing_ones_are_not_judged() -> None:
    assert judged({}) == {}
    guard = guard_of(settle_steps=0)
    assert not [a for step in range(10, 500, 10) for a in guard.on_metrics(step, {"loss": 5.0 + step})]


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ({"target_entropy_fraction": 0.995, "student_divergence": 0.02}, {"entropy-wall"}),
        ({"target_entropy_fraction": 0.9995, "student_divergence": 0.005}, {"entropy-wall", "collapse"}),
        ({"patch_target_entropy_fraction": 0.995}, {"entropy-wall"}),
        ({"student_divergence": 0.3 * math.log(256)}, {"entropy-wall"}),
        ({"student_divergence": 0.4 * math.log(256)}, {"divergence"}),
        ({"student_divergence": 0.005, "target_entropy_fraction": 0.01}, {"collapse"}),
        ({"class_spread": 0.2}, {"near-collapse"}),
        ({"class_spread": 0.05}, {"near-collapse", "collapse"}),
        ({"patch_cosine": 0.95}, {"near-collapse"}),
        ({"patch_cosine": 0.99}, {"near-collapse", "collapse"}),
        ({"class_patch_cosine": 0.95}, {"near-collapse"}),
        ({"marginal_entropy_fraction": 0.7}, {"near-collapse"}),
        ({"marginal_entropy_fraction": 0.4}, {"near-collapse", "collapse"}),
        ({"prototypes_used_fraction": 0.05}, {"near-collapse"}),
        ({"prototypes_used_fraction": 1 / 128}, {"near-collapse", "collapse"}),
        ({"rank_me": 30.0, "rank_fraction": 0.08}, {"near-collapse"}),
        ({"rank_me": 7.0, "rank_fraction": 7 / 384}, {"near-collapse", "collapse"}),
        ({"rank_me": 4.0, "rank_fraction": 4 / 128}, {"near-collapse", "collapse"}),
        ({"rank_me": 4.0, "rank_fraction": 4 / 32}, set()),
        ({"koleo": 1.5}, {"koleo-duplicates"}),
        ({"class_spread": math.nan, "koleo": math.nan}, set()),
    ],
)
def test_each_number_is_a_sign_of_its_own(values: dict[str, float], kinds: set[str]) -> None:
    assert set(judged(values)) == kinds


def test_the_two_causes_of_a_loss_at_ln_k_are_told_apart() -> None:
    teacher = judged({"target_entropy_fraction": 0.995, "student_divergence": 0.01})["entropy-wall"]
    student = judged({"target_entropy_fraction": 0.7, "student_divergence": 0.3 * math.log(256)})["entropy-wall"]
    assert "it sees no difference between images" in teacher
    assert "representation collapse" in teacher
    assert "the student does not follow" in student
    assert "learning rate" in student


def test_duplicates_and_a_collapse_of_koleo_are_told_apart() -> None:
    duplicates = judged({"koleo": 2.0})["koleo-duplicates"]
    together = judged({"koleo": 5.0, "class_spread": 0.2})["koleo-duplicates"]
    assert "the same image several times" in duplicates
    assert "move together" in together
    assert "a young network" in duplicates
    assert "a young network" in together


def test_a_one_hot_teacher_is_a_collapse_where_softmax_centres_and_not_where_sinkhorn_balances() -> None:
    assert judged({"target_entropy_fraction": 0.01}) == {}
    centred = attrs.evolve(FACTS, is_softmax_centred=True)
    assert set(judged({"target_entropy_fraction": 0.01}, centred, steps=200)) == {"collapse"}


def test_with_many_prototypes_for_few_rows_sharp_targets_are_as_sharp_as_can_be() -> None:
    many = attrs.evolve(FACTS, prototypes=128 * 32)
    floor = math.log(32) / math.log(128 * 32)
    assert many.entropy_floor_fraction == pytest.approx(floor)
    assert set(judged({"target_entropy_fraction": floor, "student_divergence": 0.005}, many)) == {"collapse"}
    assert judged({"target_entropy_fraction": floor + 0.05, "student_divergence": 0.5}, many) == {}


def test_nothing_is_judged_before_the_warm_ups_are_over() -> None:
    guard = guard_of(attrs.evolve(FACTS, warmup_steps=500))
    bad = {**HEALTHY, "class_spread": 0.0, "koleo": 9.0}
    first = next(step for step in range(10, 2000, 10) if list(guard.on_metrics(step, {**bad, "loss": float(step)})))
    assert first == 660  # the first row after 500 + 100 is that of 610, and it has to last for 50


def test_a_moment_is_no_condition() -> None:
    guard = guard_of(settle_steps=0)
    rows = [
        {**HEALTHY, "loss": float(step), "class_spread": 0.05 if step % 50 else 0.8} for step in range(10, 2000, 10)
    ]
    assert not [a for i, row in enumerate(rows) for a in guard.on_metrics(10 + 10 * i, row)]


def test_a_loss_that_has_not_moved_is_stuck_and_one_that_moved_once_is_not() -> None:
    values = {"loss": 5.0, "loss/ibot": 3.0, "loss/koleo": -0.3}
    stuck = judged(values)
    assert stuck.keys() == {"stuck"}
    assert "loss, loss/ibot" in stuck["stuck"]
    guard = guard_of(settle_steps=0)
    first = list(guard.on_metrics(10, {"loss": 5.0}))
    later = [a for step in range(20, 2000, 10) for a in guard.on_metrics(step, {"loss": 4.9 if step == 200 else 5.0})]
    assert first == later == []
    assert judged(values, attrs.evolve(FACTS, is_fresh=False)) == {}


# -- modules -------------------------------------------------------------------------------------------------------


def norms(guard: Guard, steps: range, **values: float) -> list[tuple[str, int]]:
    said = []
    for step in steps:
        list(guard.before_update(step, {f"grad_norm/{name}": value for name, value in values.items()}))
        said += [(a.kind, step) for a in guard.after_update(step, values.keys() - {"frozen"})]
    return said


def test_a_module_that_vanishes_is_dead_and_a_frozen_one_is_not() -> None:
    guard = guard_of(attrs.evolve(FACTS, warmup_steps=20, idle_modules=("dino_head",)))
    values = {"backbone": 1.0, "dino_head": 0.0, "frozen": 0.0}
    assert norms(guard, range(1, 100), **values, head=0.1) == []
    assert norms(guard, range(100, 200), **values, head=1e-8) == [("dead-module", 150)]
    assert norms(guard, range(200, 300), **values, head=0.1) == []
    assert norms(guard_of(), range(1, 100), backbone=0.0) == [("dead-module", 51)]


def test_one_enormous_gradient_makes_no_module_dead() -> None:
    guard = guard_of()
    assert norms(guard, range(1, 3), head=1e10) == []
    assert norms(guard, range(3, 300), head=0.1) == []


# -- RankMe --------------------------------------------------------------------------------------------------------


def test_rank_me_counts_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(1024, 3, generator=generator) @ torch.linalg.qr(torch.randn(64, 3, generator=generator)).Q.T
    assert rank_me(few) == pytest.approx(3, abs=0.1)
    assert rank_me(torch.randn(1024, 64, generator=generator)) == pytest.approx(64, abs=1)
    constant = torch.ones(1024, 384) + 0.02 * torch.randn(1024, 384, generator=generator)
    assert rank_me(constant) < 20  # centred it would be more than 350
    assert rank_me(constant - constant.mean(0)) > 300


def test_rank_is_measured_when_it_is_due_and_of_enough_rows() -> None:
    meter, tokens = RankMeter(every_steps=100, rows=256), torch.eye(8).repeat(32, 1)
    measured = {}
    for step in range(1, 321):
        meter.collect(step, tokens[:128])
        meter.collect(step, tokens[128:])
        if step % 20 == 0 and (found := meter.measure(step)):
            measured[step] = found
    assert list(measured) == [100, 200, 300]
    assert measured[100] == {"rank_me": pytest.approx(8), "rank_fraction": pytest.approx(1)}
    late = RankMeter(every_steps=100, rows=256)  # of a run that was continued after step 98
    for step in (99, 100):
        late.collect(step, tokens)
    assert late.measure(100) == {}


# -- state ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 119), st.integers(0, 1000))
def test_a_guard_that_was_saved_and_loaded_goes_on_alike(at: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [{"loss": float(5 * np.exp(rng.normal(0, 0.4))), "grad_norm": float(np.exp(rng.normal(0, 1))),
             "grad_norm/head": float(rng.integers(0, 2)), "class_spread": float(rng.uniform(0, 0.4))}
            for _ in range(120)]  # fmt: skip
    options = {"settle_steps": 5, "hold_steps": 2, "remind_steps": 10, "dead_module_steps": 1, "minimum_steps": 10}

    def go(guard: Guard, first: int, last: int) -> list[Any]:
        said: list[Any] = []
        for step in range(first, last):
            found = list(guard.before_update(step, rows[step]))
            found += guard.after_update(step, {"head"}) if not found else []
            found += guard.on_metrics(step, rows[step])
            said += [(a, guard.answer(a.kind, step)) for a in found]
        return said

    straight = go(guard := guard_of(**options), 0, 120)
    first = go(half := guard_of(**options), 0, at)
    again = guard_of(**options)
    again.load_state_dict(json.loads(json.dumps(half.state_dict(), allow_nan=False)))
    assert again.state_dict() == half.state_dict()
    assert first + go(again, at, 120) == straight
    assert again.state_dict() == guard.state_dict()
