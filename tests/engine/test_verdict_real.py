"""The verdict on real short runs in which each trouble is provoked."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from harm import ConstantFeatures

from bigrun import hookimpl
from bigrun.events import Event
from bigrun.record.record import RunRecord
from bigrun.record.verdict import verdict
from bigrun.testing.runner import Runner
from bigrun_telemetry.board import Board
from bigrun_telemetry.flags import judge
from bigrun_telemetry.history import History
from bigrun_telemetry.sample import Sample

RECORDED = Path(__file__).parents[1] / "plugins" / "hardware" / "cpu_training.jsonl"
COLLAPSE = "class tokens of different images are almost the same"


def test_a_real_run_without_a_log_has_begun(bigrunner: Runner) -> None:
    result = bigrunner.run(steps=3)
    result.assert_finished()
    assert verdict(RunRecord(result.directory)).headline == "healthy: finished at step 3"


class Looker:
    """The verdict after every step, from inside the process."""

    def __init__(self) -> None:
        self.headlines: dict[int, str] = {}

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        self.headlines[step] = verdict(RunRecord(run.directory, is_own=True)).headline


class BlindTeacher:
    """Every prototype is almost as near to every image: targets are uniform, though features are not the same."""

    @hookimpl
    def before_step(self, run: Any) -> None:
        with torch.no_grad():
            weight = run.objective.teacher.dino_head.last_layer.weight
            weight.mul_(1e-4 / weight.norm())


class NotANumber:
    @hookimpl
    def loss_terms(self, step: int, outputs: Any) -> dict[str, torch.Tensor]:
        return {"extra": outputs.global_features.cls.float().sum() * (float("nan") if step == 4 else 0.0)}


class SlowImages:
    """Images that take 50 ms each, where a tiny step takes less."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int, /) -> torch.Tensor:
        time.sleep(0.05)
        return torch.full((3, 40, 40), index, dtype=torch.uint8)


EAGER: dict[str, Any] = {"settle_steps": 0, "hold_steps": 4}
"""Options of the guard with which a short run is long enough."""


def run_with(bigrunner: Runner, trouble: Any, steps: int, config: dict[str, Any], **tables: Any) -> tuple[Any, Looker]:
    looker = Looker()
    objective = {"teacher_temperature_warmup_steps": 0}
    result = bigrunner.run(
        "anomaly-guard", "metrics-log", steps=steps, config=config, companions=[trouble, looker],
        objective=objective, run={"max_steps": steps, "checkpoint_every_steps": steps, "log_every_steps": 1}, **tables,
    )  # fmt: skip
    return result, looker


def test_a_real_collapse_is_named(bigrunner: Runner) -> None:
    result, _ = run_with(bigrunner, ConstantFeatures(), 30, EAGER)
    found = verdict(RunRecord(result.directory))
    assert (found.level, result.exit_code) == ("stopped", 5)
    assert found.headline.startswith("stopped: collapse since step 1: class tokens ")
    assert found.reasons[0].advice
    assert f"collapse since step 1: {COLLAPSE}" in [reason.text for reason in found.reasons]


def test_a_real_collapse_that_does_not_end_the_run_is_named_while_it_runs(bigrunner: Runner) -> None:
    result, looker = run_with(bigrunner, ConstantFeatures(), 12, {**EAGER, "collapse": ["warn"]})
    result.assert_finished()
    assert looker.headlines[11].startswith("look at this: collapse since step 1: class tokens ")
    headline = verdict(RunRecord(result.directory)).headline
    assert headline.startswith("look at this: collapse since step 1: class tokens ")
    assert "; finished at step 12, loss " in headline


def test_a_real_entropy_wall_is_named(bigrunner: Runner) -> None:
    # So early class tokens are alike in every run, which is why the guard waits for 100 steps.
    result, looker = run_with(bigrunner, BlindTeacher(), 12, {**EAGER, "class_spread": [0.0, 0.0]})
    result.assert_finished()
    assert looker.headlines[11].startswith(
        "look at this: entropy wall since step 1: the teacher's targets are almost uniform: it sees no difference"
    )


def test_a_real_nan_that_is_skipped_is_named_and_then_history(bigrunner: Runner) -> None:
    result, looker = run_with(bigrunner, NotANumber(), 60, {})
    result.assert_finished()
    assert looker.headlines[3].startswith("healthy: ") or "loader" in looker.headlines[3]
    assert looker.headlines[5] == (
        "look at this: not finite: loss/extra = nan, grad_norm = nan and 2 more, at step 4; the step was skipped"
    )
    found = verdict(RunRecord(result.directory))
    assert found.level == "healthy"
    assert found.reasons[0].text.startswith("1 anomaly so far, all over; the last one: not finite: loss/extra = nan")


def test_a_real_nan_that_ends_the_run_is_named(bigrunner: Runner) -> None:
    result, _ = run_with(bigrunner, NotANumber(), 6, {"nonfinite": ["halt"]})
    found = verdict(RunRecord(result.directory))
    assert (found.level, result.exit_code) == ("stopped", 5)
    assert found.headline.startswith("stopped: not finite: loss/extra = nan, ")
    assert found.headline.endswith(", at step 4")


def test_a_real_stall_of_the_loader_is_named(bigrunner: Runner) -> None:
    result, looker = run_with(bigrunner, Looker(), 8, {}, dataset=SlowImages())
    result.assert_finished()
    assert looker.headlines[7].startswith("look at this: the loader is too slow: data wait ")
    assert int(looker.headlines[7].removesuffix("%").rpartition(" ")[2]) > 20


class Told:
    """Tells, in step 3 of a real run, what telemetry has made of samples that take minutes in reality."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events

    @hookimpl
    def after_update(self, run: Any, step: int) -> None:
        for event in self.events if step == 3 else []:
            run.event(event.kind, event.message, event.level, **event.facts)


def told(samples: list[Sample], vendor: str | None) -> Told:
    history, board = History(), Board()
    events = []
    for sample in samples:
        history.add(sample)
        changes = board.update(judge(history, vendor), sample.elapsed_seconds or 0.0)
        events += [change.event() for change in changes]
    return Told(events)


def test_thermal_throttling_is_named(bigrunner: Runner) -> None:
    """Made up: a GPU that gets hotter until its driver slows it down. This machine has none."""
    minutes = [tick / 6 for tick in range(60)]
    samples = [
        Sample(
            elapsed_seconds=minute * 60, step=1, activity="step", standstill_seconds=0.0,
            gpu_temperature_celsius=80 + minute, gpu_slowdown_celsius=90.0, gpu_clock_mhz=2500.0 - 60 * minute,
            gpu_busy_fraction=0.98, gpu_throttle=("sw-thermal",) if minute > 8 else (),
        )
        for minute in minutes
    ]  # fmt: skip
    result, looker = run_with(bigrunner, told(samples, "nvidia"), 5, {})
    result.assert_finished()
    assert looker.headlines[3].startswith("look at this: THERMAL: the GPU is at ")
    assert any("°C counts as hot" in headline for headline in looker.headlines.values())


def test_a_recorded_training_that_became_slow_is_named(bigrunner: Runner) -> None:
    """Rows of a real run of 12 minutes beside others, as tests/plugins/test_telemetry_flags.py has them."""
    rows = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    for row in rows:
        usual, rate = row.get("images_per_second_run_median"), row.get("images_per_second_5min")
        row.pop("data_wait_run_median_fraction", None)
        row["speed_fraction"] = rate / usual if rate and usual else None
        row.pop("flags")
    result, looker = run_with(bigrunner, told([Sample(**row) for row in rows], None), 5, {})
    result.assert_finished()
    assert looker.headlines[3].startswith("look at this: SLOW: steps of the last 5 minutes went at ")
