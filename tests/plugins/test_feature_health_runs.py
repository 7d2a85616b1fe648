"""feature-health in runs that learn, and in one that cannot (T25 of the recipe)."""

from __future__ import annotations

from typing import Any

import pytest
from stripes import OneImage, Stripes

from bigrun.errors import ExitCode
from bigrun.testing.runner import Runner, RunResult
from bigrun_features.config import HealthConfig

pytestmark = pytest.mark.slow

STEPS = 300


def train(bigrunner: Runner, dataset: Stripes, *names: str) -> RunResult:
    return bigrunner.run(
        *names,
        steps=STEPS,
        dataset=dataset,
        config={"every_steps": 20},
        run={"log_every_steps": 10, "checkpoint_every_steps": STEPS, "max_steps": STEPS},
        data={"effective_batch": 16, "workers": 0},
        model={
            "width": 64, "depth": 2, "heads": 2, "ffn_hidden": 256, "patch_size_px": 16, "storage_tokens": 1,
            "layerscale": 0.1, "drop_path_fraction": 0.0,
        },
        views={
            "global_size_px": 64, "local_size_px": 32, "local_crops": 4, "colour_probability": 0.0,
            "grayscale_probability": 0.0, "solarise_probability": 0.0,
        },
        objective={
            "head_hidden": 64, "head_bottleneck": 32, "prototypes": 64, "koleo_weight": 0.1,
            "teacher_temperature": 0.04,
        },
        optimizer={"base_lr": 2e-3, "lr_rule": "none", "layer_decay": 1.0},
    )  # fmt: skip


def said(result: RunResult) -> list[Any]:
    return [event for event in result.events if event.kind == "feature-health"]


def test_a_network_that_learns_stays_healthy(bigrunner: Runner) -> None:
    result = train(bigrunner, Stripes(), "feature-health", "anomaly-guard")
    result.assert_finished()
    assert result.run is not None
    found = result.run.plugins.active["feature-health"].health_section()
    assert found["status"] == "ok"
    assert said(result) == []
    assert result.metrics[-1]["health/class_spread"] > 0.5
    warn, _ = HealthConfig().rank_fraction
    assert result.metrics[-1]["health/rank_fraction"] < warn  # stripes have few dimensions


def test_a_network_that_sees_one_image_is_not(bigrunner: Runner) -> None:
    """The guard, which hears of it, ends the run."""
    result = train(bigrunner, OneImage(), "feature-health", "anomaly-guard")
    assert result.exit_code == ExitCode.HALTED
    worst = {event.facts["indicator"]: event.facts["now"] for event in said(result)}
    assert worst["health/class_spread"] == "fail"
    assert worst["health/student_divergence"] == "fail"
    assert worst["health/target_entropy_fraction"] == "warn"  # not for 1000 steps yet
    told = [e for e in result.events if e.kind == "anomaly" and "since step" in e.message]
    assert {e.facts["action"] for e in told if e.facts["anomaly"] == "collapse"} == {"halt"}
