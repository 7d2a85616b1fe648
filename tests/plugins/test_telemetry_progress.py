"""How fast a run is, by a clock of the test's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hardware.runs import TICK, Run
from hypothesis import given
from hypothesis import strategies as st

from bigrun_telemetry.progress import RECENT_STEPS, quantile


@pytest.mark.parametrize("seconds", [0.25, 2.0, 7.0, 45.0])
def test_images_per_second_are_exact_for_steps_of_any_length(seconds: float) -> None:
    run = Run()
    run.steps(math.ceil(900 / seconds), seconds)
    run.wait(TICK)
    rate = pytest.approx(64 / seconds, rel=1e-9)
    assert run.sample.images_per_second_1min == rate
    assert run.sample.images_per_second_5min == rate
    assert run.sample.images_per_second_run_median == rate
    assert run.sample.step_p50_ms == pytest.approx(seconds * 1e3)


def test_the_first_step_compiles_and_counts_for_nothing() -> None:
    run = Run()
    run.steps(1, 1200.0)
    run.steps(700, 1.0)
    run.wait(TICK)
    assert run.sample.images_per_second_5min == pytest.approx(64)
    assert run.sample.step_max_ms == pytest.approx(1000)


def test_a_rate_needs_its_time() -> None:
    run = Run()
    run.steps(50, 1.0)
    run.wait(TICK)
    assert run.sample.images_per_second_1min is None
    run.steps(100, 1.0)
    run.wait(TICK)
    assert run.sample.images_per_second_1min == pytest.approx(64, rel=0.2)
    assert run.sample.images_per_second_5min is None


def test_a_slow_down_is_seen_in_a_minute_then_in_five_then_in_the_median() -> None:
    run = Run()
    run.steps(1800, 1.0)
    run.steps(45, 2.0)
    run.wait(TICK)
    sample = run.sample
    assert sample.images_per_second_1min == pytest.approx(32, rel=0.1)
    assert 32 < (sample.images_per_second_5min or 0) < 62
    assert sample.images_per_second_run_median == pytest.approx(64)
    run.steps(1200, 2.0)
    run.wait(TICK)
    assert run.sample.images_per_second_5min == pytest.approx(32)
    assert run.sample.images_per_second_run_median == pytest.approx(32)


def test_the_stall_of_a_save_is_no_slowness() -> None:
    run = Run()
    run.steps(600, 1.0)
    run.activity = "checkpoint"
    run.wait(120.0)
    run.progress.saved(stall_seconds=120.0, just_now=True)
    run.activity = "step"
    run.steps(60, 1.0)
    run.wait(5.0)
    assert run.sample.images_per_second_5min == pytest.approx(64)
    assert run.sample.step_max_ms == pytest.approx(1000)
    assert run.sample.checkpoint_age_seconds == pytest.approx(60, abs=TICK)


def test_a_stall_that_is_heard_of_later_is_no_slowness_either() -> None:
    """A save in the background: its copy took 5 s, and steps of a second went on until it was on the disk."""
    run = Run()
    run.steps(600, 1.0)
    run.wait(5.0)
    run.steps(3, 1.0)
    run.progress.saved(stall_seconds=5.0, just_now=False)
    run.steps(60, 1.0)
    run.wait(TICK)
    assert run.sample.images_per_second_1min == pytest.approx(64, rel=0.03)
    assert run.sample.images_per_second_5min == pytest.approx(64, rel=0.03)
    assert (run.sample.step_p50_ms, run.sample.step_max_ms) == (pytest.approx(1000), pytest.approx(6000))
    assert min(run.progress._durations) == pytest.approx(1)


def test_time_in_which_plugins_look_is_no_slowness_and_is_said() -> None:
    run = Run()
    run.steps(600, 1.0)
    run.look(240.0)
    run.steps(59, 1.0)
    run.wait(TICK)
    assert run.sample.images_per_second_5min == pytest.approx(64)
    assert run.sample.step_max_ms == pytest.approx(1000)
    assert run.sample.observe_fraction == pytest.approx(240 / 300, abs=0.05)
    run.steps(300, 1.0)
    run.wait(TICK)
    assert run.sample.observe_fraction == 0
    run.progress.pause_began()
    run.wait(600.0)
    assert run.sample.observe_fraction == pytest.approx(1), "while it lasts, too"


def test_copies_to_the_gpu_are_bytes_beside_what_its_slot_carries() -> None:
    run = Run(link_gbps=25.0)
    run.steps(600, 1.0, moved_bytes=5 * 10**8)
    run.wait(TICK)
    assert run.sample.h2d_bytes_per_second == pytest.approx(5e8)
    assert run.sample.h2d_fraction == pytest.approx(0.02)
    run = Run()
    run.steps(600, 1.0, moved_bytes=5 * 10**8)
    run.wait(TICK)
    assert run.sample.h2d_fraction is None
    run = Run(link_gbps=25.0)
    run.steps(600, 1.0)
    run.wait(TICK)
    assert (run.sample.h2d_bytes_per_second, run.sample.h2d_fraction) == (None, None)


def test_what_the_run_reports_of_its_flops_is_in_the_rows() -> None:
    run = Run()
    assert run.progress.read().mfu_fraction is None
    run.progress.metrics_came({"model_tflops_per_second": 31.5, "mfu_fraction": 0.19, "mfu_of_measured_fraction": 0.9})
    sample = run.progress.read()
    assert (sample.model_tflops_per_second, sample.mfu_fraction, sample.mfu_of_measured_fraction) == (31.5, 0.19, 0.9)


def test_times_of_steps_are_those_of_the_last_ones() -> None:
    run = Run()
    run.steps(1 + RECENT_STEPS, 9.0)
    run.steps(RECENT_STEPS - 20, 1.0)
    run.wait(TICK)
    assert (run.sample.step_p50_ms, run.sample.step_p95_ms, run.sample.step_max_ms) == (1000, 9000, 9000)


def test_standing_still_is_measured_by_step_and_activity() -> None:
    run = Run()
    run.wait(100.0)
    assert run.sample.standstill_seconds == pytest.approx(90)
    run.activity = "data"
    run.wait(TICK)
    assert run.sample.standstill_seconds == 0
    run.wait(50.0)
    assert run.sample.standstill_seconds == pytest.approx(50)
    run.step += 1
    run.wait(TICK)
    assert (run.sample.step, run.sample.activity, run.sample.standstill_seconds) == (2, "data", 0)


def test_time_in_which_nobody_looked_is_no_standing_still() -> None:
    """The process was stopped, or the machine slept."""
    run = Run()
    run.wait(20.0)
    before = run.sample.standstill_seconds or 0.0
    run.now = run.sampled = run.now + 3600.0
    assert run.progress.read().standstill_seconds == pytest.approx(before + 2 * TICK)


def test_waits_for_images_are_a_mean_of_five_minutes_beside_the_usual() -> None:
    run = Run()
    for _ in range(1200):
        run.progress.metrics_came({"loss": 1.0, "data_wait_fraction": 0.02})
        run.steps(1, 1.0)
    for _ in range(150):
        run.progress.metrics_came({"loss": 1.0, "data_wait_fraction": 0.42})
        run.steps(1, 1.0)
    assert run.sample.data_wait_fraction == pytest.approx(0.22, abs=0.03)
    assert run.sample.data_wait_usual_fraction == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("loss", "expected"), [(1.5, True), (float("nan"), False), (float("inf"), False), (-float("inf"), False)]
)
def test_whether_the_loss_is_finite(loss: float, expected: bool) -> None:
    run = Run()
    assert run.progress.read().loss_is_finite is None
    run.progress.metrics_came({"loss": loss})
    assert run.progress.read().loss_is_finite is expected
    run.progress.metrics_came({})  # every step of the window was skipped
    assert run.progress.read().loss_is_finite is None


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_the_inverse_of_the_distribution(values: list[int], fraction: float) -> None:
    expected = np.quantile(values, fraction, method="inverted_cdf")
    assert quantile(sorted(float(value) for value in values), fraction) == expected
    assert quantile([], fraction) is None
