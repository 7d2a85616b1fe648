"""The shipped presets: valid, explained, and what their first lines say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import warm

from bigrun.activation import activate
from bigrun.config import Config, read_preset, shipped_presets

NAMES = list(shipped_presets())


def resolved(name: str) -> Config:
    return activate(read_preset(name))[0]


@pytest.mark.parametrize("name", NAMES)
def test_check_passes_with_exact_parts_batch_length_and_reasons(name: str, tmp_path: Path) -> None:
    done = warm.bigrun(tmp_path, "check", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name}: valid")
    for part in (
        "parameters   backbone",
        "parameters   dino_head",
        "batch        effective",
        "length       ",
        "by rule      ",
    ):
        assert part in done.stdout
    assert ("warning      data.path" in done.stdout) == (name != "quickstart")
    assert not re.search(r"^error\b", done.stdout + done.stderr, re.MULTILINE)
    assert not [line for line in done.stdout.splitlines() if line.startswith("features ") and " 0 images" in line]
    assert "features are never judged" not in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_first_lines_are_the_command_and_the_result_to_expect(name: str) -> None:
    first, second = shipped_presets()[name].read_text(encoding="utf-8").splitlines()[:2]
    assert first.startswith(f"# `bigrun run {name}")
    assert second.startswith("# Expect: ")


def test_phase_5a_is_exactly_384_optimizer_steps_of_256_images() -> None:
    config = resolved("vit_large")
    assert config.run.max_steps == 384
    assert config.data.effective_batch == 256
    assert config.optimizer.warmup_steps is not None
    assert config.optimizer.warmup_steps < 384


def test_phase_5b_has_no_end_and_a_giant() -> None:
    config = resolved("vit_giant")
    assert config.run.max_steps is None
    assert config.teacher.momentum == config.teacher.momentum_end
    assert "gram-anchoring" in config.plugins


@pytest.mark.parametrize("images_per_second", [1.7, 4.0])
def test_phase_5b_comes_to_all_that_it_has_planned_within_15_days(images_per_second: float) -> None:
    """The slowest and the fastest that a Strix Halo is expected to be: docs/how-to/phase_5b.md."""
    config = resolved("vit_giant")
    steps_a_day = images_per_second * 86_400 / config.data.effective_batch
    gram = config.plugins["gram-anchoring"]
    last_warm_up = max(
        config.optimizer.warmup_steps or 0,
        config.optimizer.freeze_last_layer_steps or 0,
        config.objective.teacher_temperature_warmup_steps or 0,
    )
    assert (last_warm_up + config.plugins["anomaly-guard"].settle_steps) / steps_a_day < 2, "judged on day 2"
    assert last_warm_up <= gram.candidates_every_steps * 2 < gram.start_step, "several candidates"
    assert (gram.start_step + gram.ramp_steps) / steps_a_day < 13, "two days at the full weight"
    assert config.run.checkpoint_every_steps / steps_a_day * 24 < 2.5, "hours that a crash costs"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "quickstart"])
def test_the_expected_first_loss_is_ln_k(name: str) -> None:
    text = "".join(shipped_presets()[name].read_text(encoding="utf-8").splitlines()[:4])
    found = re.search(r"ln (\d+)", text)
    assert found
    assert int(found[1]) == resolved(name).objective.prototypes
