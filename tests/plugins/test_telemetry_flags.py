"""Flags of telemetry over series of samples: each at its number, and none for a healthy run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hardware.series import series, watch
from hypothesis import given, settings
from hypothesis import strategies as st

from bigrun.sections.run import RunSection
from bigrun_telemetry.board import QUIET_SECONDS, Board
from bigrun_telemetry.flags import Finding
from bigrun_telemetry.history import History
from bigrun_telemetry.sample import Sample

RECORDED = Path(__file__).parent / "hardware"


def test_a_healthy_working_day_raises_nothing() -> None:
    watched = watch(
        series(
            8 * 60,
            gpu_temperature_celsius=lambda m: 74 + 3 * math.sin(m),
            gpu_clock_mhz=lambda m: 2500 + 60 * math.sin(m * 3),
            speed_fraction=lambda m: 1 + 0.02 * math.sin(m / 7),
            process_rss_bytes=lambda m: round(10**9 * (1 + 0.004 * math.sin(m))),
        )
    )
    assert watched.flags == set()


def test_a_recorded_training_beside_others_was_slow_and_nothing_else() -> None:
    """Rows of a real run of 12 minutes on two cores, without a GPU, whose load rose from 7 to 10 towards the end."""
    rows = [json.loads(line) for line in (RECORDED / "cpu_training.jsonl").read_text().splitlines()]
    said = [tuple(row.pop("flags")) for row in rows]
    samples = [Sample(**with_speed(row)) for row in rows]
    watched = watch(samples, vendor=None)
    assert watched.flags == {"SLOW"}
    assert [(state, level) for _, state, level in watched.of("SLOW")] == [("began", "warning"), ("worse", "error")]
    assert {change.finding.facts["cause"] for _, change in watched.changes} == {"unknown"}
    assert said[-1] == ("SLOW",)
    assert [watch(samples[: n + 1], vendor=None).board.up != [] for n in range(0, len(rows), 8)] == [
        flags != () for flags in said[::8]
    ]


def with_speed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a time when the median minute of the run was the usual; all of its steps were of one kind."""
    row = dict(row)
    wait = row.pop("data_wait_run_median_fraction", None)
    rate, usual = row.get("images_per_second_5min"), row.get("images_per_second_run_median")
    return row | {"data_wait_usual_fraction": wait, "speed_fraction": rate / usual if rate and usual else None}


# -- THERMAL --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["sw-thermal", "hw-thermal", "hw-slowdown"])
def test_one_sample_of_a_slow_down_by_heat_is_more_than_a_hundredth(reason: str) -> None:
    watched = watch(series(20, gpu_throttle=lambda m: ("power-cap", reason) if m == 8 else ("power-cap",)))
    assert watched.of("THERMAL") == [(8.0, "began", "warning"), (pytest.approx(18, abs=0.2), "ended", "warning")]
    assert reason in watched.message("THERMAL")


def test_a_power_brake_is_named_as_the_cause() -> None:
    watched = watch(series(2, gpu_throttle=("hw-slowdown", "power-brake")))
    assert "power supply" in watched.message("THERMAL")
    assert "power supply" not in watch(series(2, gpu_throttle=("hw-slowdown", "hw-thermal"))).message("THERMAL")


@pytest.mark.parametrize(
    ("celsius", "facts", "options", "is_hot"),
    [
        (86.9, {"gpu_slowdown_celsius": 90.0}, {}, False),
        (87.0, {"gpu_slowdown_celsius": 90.0}, {}, True),
        (87.0, {"gpu_slowdown_celsius": 100.0}, {}, False),
        (70.0, {"gpu_slowdown_celsius": None, "gpu_margin_celsius": 3.0}, {}, True),
        (70.0, {"gpu_slowdown_celsius": None, "gpu_margin_celsius": 3.5}, {}, False),
        (86.9, {"gpu_slowdown_celsius": None}, {"vendor": "nvidia"}, False),
        (87.0, {"gpu_slowdown_celsius": None}, {"vendor": "nvidia"}, True),
        (91.0, {"gpu_slowdown_celsius": None}, {"vendor": "amd"}, False),
        (92.0, {"gpu_slowdown_celsius": None}, {"vendor": "amd"}, True),
        (80.0, {"gpu_slowdown_celsius": None}, {"vendor": "amd", "hot_celsius": 80.0}, True),
        (80.0, {"gpu_slowdown_celsius": 90.0}, {"vendor": "amd", "hot_celsius": 80.0}, False),
        (None, {"gpu_slowdown_celsius": None, "gpu_throttle": None}, {"vendor": None}, False),
    ],
)
def test_near_the_threshold_is_hot(
    celsius: float | None, facts: dict[str, Any], options: dict[str, Any], is_hot: bool
) -> None:
    watched = watch(series(1, gpu_temperature_celsius=celsius, **facts), **options)
    assert ("THERMAL" in watched.flags) == is_hot


# -- POWER-CAP and CLOCK-DROP -----------------------------------------------------------------------------------


def test_a_power_limit_alone_is_normal_and_no_warning() -> None:
    watched = watch(series(10, gpu_throttle=("power-cap",), gpu_power_limit_watts=450.0))
    assert watched.of("POWER-CAP") == [(0.0, "began", "info")]
    assert watched.message("POWER-CAP") == "the power limit of 450 W holds the clock: normal under load"


@pytest.mark.parametrize(("clock", "level"), [(2150.0, "info"), (2100.0, "warning")])
def test_a_power_limit_that_costs_more_than_15_percent_is_a_warning(clock: float, level: str) -> None:
    watched = watch(series(10), series(5, 10, gpu_throttle=("power-cap",), gpu_clock_mhz=clock))
    levels = [level for _, _, level in watched.of("POWER-CAP")]
    assert levels[-1] == level
    assert watched.of("POWER-CAP")[0][1] == "began"


@pytest.mark.parametrize(("clock", "flags"), [(2260.0, set()), (2240.0, {"CLOCK-DROP"})])
def test_a_clock_below_90_percent_of_the_steady_one_has_dropped(clock: float, flags: set[str]) -> None:
    watched = watch(series(10), series(10, 10, gpu_clock_mhz=clock))
    assert watched.flags == flags
    if flags:
        ((minutes, state, level),) = watched.of("CLOCK-DROP")
        assert (state, level) == ("began", "warning")
        assert 12 < minutes < 13.5, "when most of five minutes were slow"


def test_an_idle_gpu_may_lower_its_clock() -> None:
    watched = watch(series(10), series(20, 10, gpu_clock_mhz=600.0, gpu_busy_fraction=0.2))
    assert watched.flags == set()


def test_the_steady_clock_is_not_that_of_a_warm_up() -> None:
    watched = watch(series(3, gpu_busy_fraction=0.3, gpu_clock_mhz=3000.0), series(17, 3))
    assert watched.history.steady_clock_mhz == 2500
    assert watched.history.best_clock_mhz == 2500
    assert watched.flags == set()


def test_five_minutes_are_steady_when_nearly_all_of_them_are_busy() -> None:
    watched = watch(
        series(8, gpu_busy_fraction=lambda m: 0.98 if round(m * 6) % 4 else 0.1, gpu_clock_mhz=1500.0), series(10, 8)
    )
    assert watched.history.steady_clock_mhz == 2500


def test_the_best_minute_is_a_minute_and_no_moment() -> None:
    watched = watch(series(10, gpu_clock_mhz=lambda m: 3000.0 if m < 0.3 else 2500.0))
    assert watched.history.best_clock_mhz == 2500


def test_other_steps_may_have_another_clock() -> None:
    """Those of a larger crop draw more power under the same limit. What is then usual is learnt anew, and judged by."""
    heavier = series(20, 20, kinds_of_steps=2, gpu_clock_mhz=2000.0, gpu_throttle=("power-cap",))
    watched = watch(series(20), heavier)
    assert [level for _, _, level in watched.of("POWER-CAP")] == ["info"]
    assert watched.flags == {"POWER-CAP"}
    assert (watched.history.steady_clock_mhz, watched.history.best_clock_mhz) == (2000, 2000)
    assert watched.history.run_best_clock_mhz == 2500
    dropped = series(20, 40, kinds_of_steps=2, gpu_clock_mhz=1700.0)
    watched = watch(series(20), series(20, 20, kinds_of_steps=2, gpu_clock_mhz=2000.0), dropped)
    assert watched.flags == {"CLOCK-DROP"}
    assert watch(series(20), series(20, 20, gpu_clock_mhz=2000.0)).flags == {"CLOCK-DROP"}, "of the same steps"


def test_a_clock_of_unknown_load_is_not_judged() -> None:
    watched = watch(series(20, gpu_busy_fraction=None, gpu_clock_mhz=lambda m: 2500.0 if m < 10 else 600.0))
    assert watched.flags == set()


# -- SLOW -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speed", "expected"), [(0.95, []), (0.949, ["warning"]), (0.85, ["warning"]), (0.849, ["error"]), (None, [])]
)
def test_slow_is_a_warning_and_very_slow_an_alarm(speed: float | None, expected: list[str]) -> None:
    watched = watch(series(1, speed_fraction=speed))
    assert [level for _, _, level in watched.of("SLOW")] == expected


def test_it_is_said_again_when_it_becomes_worse_and_not_when_it_becomes_better() -> None:
    watched = watch(series(30, speed_fraction=lambda m: 1.0 if m < 5 else 0.9 if m < 10 else 0.8))
    assert [(state, level) for _, state, level in watched.of("SLOW")] == [("began", "warning"), ("worse", "error")]
    watched = watch(series(30, speed_fraction=lambda m: 0.8 if m < 5 else 0.9))
    assert [(state, level) for _, state, level in watched.of("SLOW")] == [("began", "error")]


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({}, "unknown"),
        ({"data_wait_fraction": 0.10}, "unknown"),
        ({"data_wait_fraction": 0.12}, "input"),
        ({"torch_alloc_retries": lambda m: int(m)}, "memory"),
        ({"swap_in_bytes": lambda m: int(m * 10**6)}, "memory"),
        ({"gpu_clock_mhz": lambda m: 2500.0 if m < 10 else 2350.0}, "thermal"),
        ({"gpu_clock_mhz": lambda m: 2500.0 if m < 10 else 2400.0}, "unknown"),
        ({"gpu_throttle": ("sw-thermal",), "data_wait_fraction": 0.9}, "thermal"),
    ],
)
def test_the_cause_of_slowness(fields: dict[str, Any], cause: str) -> None:
    watched = watch(series(20, speed_fraction=lambda m: 1.0 if m < 18 else 0.8, **fields))
    (found,) = [change.finding for _, change in watched.changes if change.finding.flag == "SLOW"]
    assert found.facts["cause"] == cause


# -- MEMORY -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("used", "expected"), [(97, set()), (98, {"MEMORY"})])
def test_little_free_memory(used: int, expected: set[str]) -> None:
    assert watch(series(1, gpu_memory_used_bytes=used)).flags == expected
    assert watch(series(1, host_memory_available_bytes=100 - used)).flags == expected


def test_retries_that_rise_and_not_that_have_risen() -> None:
    assert watch(series(20, torch_alloc_retries=7)).flags == set()
    watched = watch(series(30, torch_alloc_retries=lambda m: 7 if m < 10 else 8))
    assert [(minutes, state) for minutes, state, _ in watched.of("MEMORY")] == [
        (10.0, "began"),
        (pytest.approx(19.8, abs=0.3), "ended"),
    ]


@pytest.mark.parametrize(("percent", "expected"), [(0.8, set()), (1.3, {"MEMORY"}), (-2.0, set())])
def test_memory_that_grows_by_more_than_a_percent_in_an_hour(percent: float, expected: set[str]) -> None:
    watched = watch(
        series(
            90,
            process_rss_bytes=lambda m: round(10**9 * (1 + percent / 100 * m / 60 * 2) + 10**7 * math.sin(m * 9)),
        )
    )
    assert watched.flags == expected
    if expected:
        assert min(minutes for minutes, _, _ in watched.of("MEMORY")) >= 60, "an hour is needed to say so"


def test_one_large_allocation_is_no_growth() -> None:
    for minute in (5, 30, 70, 110):
        assert watch(series(180, process_rss_bytes=lambda m, at=minute: 10**9 if m < at else 13 * 10**8)).flags == set()


# -- HUNG -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p50_ms", "activity", "limit_seconds"),
    [
        (500.0, "step", 300),
        (29_000.0, "data", 300),
        (60_000.0, "step", 600),
        (60_000.0, "observe", 600),
        (None, "step", 3600),
        (500.0, "end", 3600),
        (500.0, "checkpoint", 14_400),
        (500.0, "start", None),
    ],
)
def test_no_step_for_ten_times_the_median_and_at_least_five_minutes(
    p50_ms: float | None, activity: str, limit_seconds: float | None
) -> None:
    watched = watch(series(250, step_p50_ms=p50_ms, activity=activity, standstill_seconds=lambda m: m * 60))
    assert watched.of("HUNG") == ([] if limit_seconds is None else [(limit_seconds / 60, "began", "error")])


def test_the_run_says_how_long_what_has_no_median_may_take() -> None:
    limits = RunSection(first_step_limit_seconds=7200.0, save_limit_seconds=600.0)
    standing = {"step_p50_ms": None, "standstill_seconds": lambda m: m * 60}
    for activity, minutes in (("step", 120), ("checkpoint", 10), ("end", 120)):
        watched = watch(series(130, activity=activity, **standing), limits=limits)
        assert watched.of("HUNG") == [(minutes, "began", "error")]


def test_a_step_that_moves_again_ends_it_at_once() -> None:
    watched = watch(series(8, standstill_seconds=lambda m: m * 60), series(1, 8))
    assert watched.of("HUNG") == [(5.0, "began", "error"), (8.0, "ended", "error")]


# -- the board --------------------------------------------------------------------------------------------------


def test_a_flag_that_flickers_is_said_once() -> None:
    watched = watch(series(60, speed_fraction=lambda m: 0.9 if int(m) % 4 == 0 else 1.0))
    assert [state for _, state, _ in watched.of("SLOW")] == ["began"]


@given(
    st.lists(
        st.tuples(st.sampled_from([None, "info", "warning", "error"]), st.floats(1, 2 * QUIET_SECONDS)), max_size=40
    )
)
@settings(deadline=None)
def test_every_flag_that_goes_up_comes_down_once(steps: list[tuple[Any, float]]) -> None:
    board, now, changes = Board(), 0.0, []
    for level, seconds in steps:
        now += seconds
        changes += board.update([] if level is None else [Finding("SLOW", level, "m")], now)
        assert len(board.up) == sum({"began": 1, "worse": 0, "ended": -1}[change.state] for change in changes)
        assert len(board.up) in (0, 1)
    changes += board.update([], now + QUIET_SECONDS + 1)
    assert board.up == []
    assert all(change.seconds >= 0 for change in changes)


def test_what_the_event_says() -> None:
    watched = watch(series(1, speed_fraction=0.8, images_per_second_5min=80.0))
    event = watched.changes[0][1].event()
    assert (event.kind, event.level) == ("telemetry-flag", "error")
    assert event.message.startswith(
        "SLOW: steps of the last 5 minutes went at 80% of their usual speed, 80 images/s; neither"
    )
    assert event.facts["flag"] == "SLOW"
    assert event.facts["state"] == "began"
    json.dumps(event.facts, allow_nan=False)


# -- the history ------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.5, 60), min_size=1, max_size=200))
@settings(deadline=None)
def test_it_keeps_five_minutes_whatever_the_rhythm(gaps: list[float]) -> None:
    history, now = History(), 0.0
    for gap in gaps:
        now += gap
        history.add(Sample(elapsed_seconds=now, gpu_clock_mhz=now, gpu_busy_fraction=1.0))
        ages = [now - (sample.elapsed_seconds or 0) for sample in history.recent()]
        assert ages[-1] == 0
        assert max(ages) <= 300
        assert history.now.gpu_clock_mhz == now
    assert history.best_clock_mhz is None or history.best_clock_mhz <= now
