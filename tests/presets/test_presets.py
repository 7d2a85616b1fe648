"""The shipped presets: valid, explained, and what their first lines say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import warm

from bigrun.activation import activate
from bigrun.config import Config, read_preset, shipped_presets

ROOT = Path(__file__).resolve().parents[2]
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


def test_the_small_network_of_phase_5a_is_no_other_one_than_its_name_says() -> None:
    """Each such warning is a line `look at` of the dry run, where a reader is to look at something else."""
    small = ROOT / "docs/examples/phase_5a/small.toml"
    config = activate(read_preset("vit_large", files=[small, small.with_name("ct.toml")]))[0]
    assert [text for text in config.warnings if "wins over" in text] == []
    model = config.model
    assert (model.width, model.depth, model.heads, model.ffn, model.ffn_hidden) == (128, 6, 4, "mlp", 512)
    assert config.run == resolved("vit_large").run


def test_phase_5b_has_no_end_and_a_giant() -> None:
    config = resolved("vit_giant")
    assert config.run.max_steps is None
    assert config.teacher.momentum == config.teacher.momentum_end
    assert "gram-anchoring" in config.plugins


@pytest.mark.parametrize("images_per_second", [1.7, 4.0])
def test_phase_5b_warms_up_is_judged_and_anchored_within_15_days(images_per_second: float) -> None:
    """The slowest and the fastest that a Strix Halo is expected to be: docs/how-to/phase_5b.md."""
    config = resolved("vit_giant")
    day_steps = images_per_second * 86_400 / config.data.effective_batch
    gram, guard = config.plugins["gram-anchoring"], config.plugins["anomaly-guard"]
    warm_ups = (
        config.optimizer.warmup_steps or 0,
        config.optimizer.freeze_last_layer_steps or 0,
        config.objective.teacher_temperature_warmup_steps or 0,
    )
    assert (max(warm_ups) + guard.settle_steps + guard.hold_steps) / day_steps < 2.1, "judged on day 2"
    assert max(warm_ups) <= gram.candidates_every_steps * 2 < gram.start_step, "several candidates"
    with_gram = (15 - (gram.start_step - 1) / day_steps) * day_steps / 1.24  # its pass makes a step a quarter longer
    assert gram.ramp_steps < 0.2 * with_gram, "most of what is left has the full weight"
    assert with_gram > gram.refresh_every_steps, "one refresh at least"
    assert config.run.checkpoint_every_steps / day_steps * 24 < 2.5, "hours that a crash costs"
    horizon = 1 / (1 - config.teacher.momentum)
    assert day_steps * 15 / horizon > 30, "the teacher averages over a small part of the run"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "quickstart"])
def test_the_expected_first_loss_is_ln_k(name: str) -> None:
    text = "".join(shipped_presets()[name].read_text(encoding="utf-8").splitlines()[:4])
    found = re.search(r"ln (\d+)", text)
    assert found
    assert int(found[1]) == resolved(name).objective.prototypes
