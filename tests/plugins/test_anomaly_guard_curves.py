"""What anomaly-guard says of recorded trainings of 10,000 steps: nothing while all is well, and everything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
from recordings import RECORDINGS, Curves, watch

from bigrun.evaluation.facts import Facts
from bigrun_guard.config import GuardConfig


@pytest.fixture(scope="module", params=RECORDINGS, ids=lambda path: path.stem)
def curves(request: pytest.FixtureRequest) -> Curves:
    path: Path = request.param
    assert path.stat().st_size < 2**20
    return Curves.read(path)


def test_a_recording_is_a_real_training_with_warm_ups(curves: Curves) -> None:
    assert [row["step"] for row in curves.steps] == list(range(1, 10_001))
    assert len(curves.rows) >= 1000
    assert Facts.of(curves.config).warmup_steps >= 1000
    assert curves.rows[10_000]["class_spread"] > 0.5
    assert curves.rows[10_000]["loss"] < 0.8 * curves.rows[10]["loss"]


def test_bar_29_ten_thousand_recorded_steps_raise_no_false_alarm(curves: Curves) -> None:
    assert watch(curves) == []


def test_what_is_judged_after_the_warm_ups_alone_would_be_a_false_alarm_before(curves: Curves) -> None:
    impatient = attrs.evolve(curves.config.objective, teacher_temperature_warmup_steps=0)
    optimizer = attrs.evolve(curves.config.optimizer, warmup_steps=0, freeze_last_layer_steps=0)
    config = attrs.evolve(curves.config, objective=impatient, optimizer=optimizer)
    early = attrs.evolve(curves, config=config, steps=curves.steps[:500])
    assert watch(early, GuardConfig(settle_steps=0, hold_steps=0))


@pytest.mark.parametrize("at", [31, 500, 2000, 4999, 9999])
def test_a_tenfold_spike_in_a_recording_is_seen(curves: Curves, at: int) -> None:
    def disturb(step: int, row: Mapping[str, float]) -> Mapping[str, float]:
        return {**row, "loss": 10 * row["loss"], "grad_norm": 10 * row["grad_norm"]} if step == at else row

    part = attrs.evolve(curves, steps=curves.steps[max(at - 400, 0) : at + 60])
    found = watch(part, disturb=disturb)
    assert "loss-spike" in {anomaly.kind for anomaly in found}  # gradient norms vary by nearly as much in good health
    assert {anomaly.step for anomaly in found} == {at}
