"""What is slow: steps beside the usual time of such steps, over days of a made-up run."""

from __future__ import annotations

import random

import pytest
from hardware.runs import TICK, Run

from bigrun_telemetry.progress import MOST_KINDS
from bigrun_telemetry.usual import KNOWN_MINUTES

MINUTE = 60.0


@pytest.mark.parametrize("seconds", [0.3, 7.0, 45.0, 200.0])
def test_a_run_that_is_well_goes_at_its_usual_speed(seconds: float) -> None:
    run = Run()
    run.hours(max(1.0, seconds / 50), seconds)
    assert run.sample.speed_fraction == pytest.approx(1)
    assert run.slow == []


def test_nothing_is_usual_before_ten_minutes() -> None:
    run = Run()
    run.steps(KNOWN_MINUTES * 60 - 60, 1.0)
    assert run.sample.speed_fraction is None
    run.steps(240, 1.0)
    assert run.sample.speed_fraction == pytest.approx(1)


def test_a_slow_down_is_found_within_five_minutes() -> None:
    run = Run()
    run.hours(10, 5.0)
    run.hours(1, 6.0)
    (began, state, level), *rest = run.slow
    assert (state, level) == ("began", "warning")
    assert began < 10 + 5 / 60
    assert [(state, level) for _, state, level in rest] == [("worse", "error")]
    assert "at 83% of their usual speed" in run.watched.board.up[0].message


def test_another_loss_term_is_no_slowness_and_is_judged_by_itself() -> None:
    """Gram anchoring begins after a day, and every step takes half as long again; hours later something is slow."""
    run = Run(tick=MINUTE)
    run.hours(24, 10.0, "without")
    run.hours(3, 15.0, "with")
    assert run.slow == []
    run.hours(0.5, 18.0, "with")
    assert [level for _, _, level in run.slow][-1:] == ["error"]


def test_steps_of_several_sizes_are_compared_with_their_own_kind() -> None:
    """A few steps in five minutes, whose sizes are drawn: images per second change by more than a half."""
    draw = random.Random(0)
    run = Run()
    seconds = {"small": 8.0, "large": 40.0}
    for _ in range(1500):
        kind = draw.choice(list(seconds))
        run.steps(1, seconds[kind], kind=kind)
    assert run.slow == []
    assert run.sample.speed_fraction == pytest.approx(1)
    for _ in range(40):
        kind = draw.choice(list(seconds))
        run.steps(1, 1.1 * seconds[kind], kind=kind)
    assert [(state, level) for _, state, level in run.slow] == [("began", "warning")]
    assert run.sample.speed_fraction == pytest.approx(1 / 1.1)


def test_a_loss_term_of_every_sixteenth_step_is_a_kind_of_its_own() -> None:
    run = Run()
    for _ in range(300):
        run.steps(15, 1.0, kind="plain")
        run.steps(1, 6.0, kind="with a penalty")
    assert run.slow == []
    assert run.sample.speed_fraction == pytest.approx(1)


def test_a_change_that_nobody_knows_of_is_usual_after_half_a_day() -> None:
    run = Run(tick=MINUTE)
    run.hours(72, 10.0)
    run.hours(48, 13.0)
    (began, *_), *_, (ended, state, _) = run.slow
    assert began == pytest.approx(72, abs=0.1)
    assert state == "ended"
    assert ended == pytest.approx(72 + 12, abs=0.4)
    assert run.sample.speed_fraction == pytest.approx(1)


@pytest.mark.parametrize(("percent_an_hour", "is_found"), [(2.0, True), (0.7, True), (0.2, False)])
def test_a_slow_down_that_creeps_over_hours_is_found(percent_an_hour: float, is_found: bool) -> None:
    run = Run(tick=MINUTE)
    run.hours(30, 10.0)
    while run.hour < 60:
        run.steps(1, 10.0 * (1 + percent_an_hour / 100 * (run.hour - 30)))
    assert bool(run.slow) == is_found
    if is_found:
        (began, state, level), *_ = run.slow
        assert (state, level) == ("began", "warning")
        slower = percent_an_hour / 100 * (began - 30)
        assert 0.05 < slower < 0.11, "soon after it has cost 5 %"
        assert "ended" not in [state for _, state, _ in run.slow], "while it goes on"


def test_evaluations_between_steps_are_no_slowness() -> None:
    run = Run()
    for _ in range(12):
        run.hours(1, 5.0)
        run.look(1500.0)
    assert run.slow == []
    assert run.sample.speed_fraction == pytest.approx(1)


def test_the_first_step_of_a_kind_compiles_and_counts_for_nothing() -> None:
    run = Run()
    run.hours(2, 5.0, "a")
    run.steps(1, 250.0, kind="b")
    for _ in range(30):
        run.steps(8, 5.0, kind="a")
        run.steps(1, 6.0, kind="b")
    assert run.slow == []


def test_a_step_that_was_skipped_is_of_no_kind() -> None:
    run = Run()
    run.hours(1, 5.0)
    run.steps(100, 1.0, kind=None)
    run.wait(TICK)
    assert run.sample.speed_fraction == pytest.approx(1)
    assert run.sample.kinds_of_steps == 1


def test_terms_named_after_the_step_fill_no_memory() -> None:
    run = Run()
    for number in range(2000):
        run.steps(1, 2.0, kind=f"loss/{number}")
    assert run.sample.kinds_of_steps == MOST_KINDS
    assert run.sample.speed_fraction is None
    assert len(run.progress._usual._minutes) <= MOST_KINDS
