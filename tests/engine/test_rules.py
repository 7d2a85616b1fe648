"""What the engine chooses, refuses and warns of, and that `bigrun check` says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import warm
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import NETWORK

from bigrun.config import Config, Document, build_config
from bigrun.prototypes import image_warnings, prototypes_for_images, prototypes_per_row
from bigrun.rules import RULES, EngineConfig, choose
from bigrun.sections import Data, RunSection, ScheduleSection
from bigrun.testing.runner import Runner


def resolve(**tables: dict[str, Any]) -> Config:
    return build_config(Document("test", "test", tables), {}, [])


def of(config: Config | EngineConfig, path: str) -> Any:
    table, name = path.split(".")
    return getattr(getattr(config, table), name)


def why(config: Config, path: str) -> str:
    return next(choice.why for choice in config.choices if choice.path == path)


# -- what is chosen -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "prototypes"),
    [(64, 2048), (128, 4096), (256, 8192), (512, 16384), (1024, 32768), (2048, 65536), (96, 4096), (90, 4096)],
)
def test_prototypes_follow_the_rows_of_a_step(batch: int, prototypes: int) -> None:
    config = resolve(data={"effective_batch": batch})
    assert config.objective.prototypes == prototypes
    assert f"{2 * batch} rows per step" in why(config, "objective.prototypes")


@settings(deadline=None, max_examples=50)
@given(batch=st.integers(2, 5000), crops=st.integers(2, 4))
def test_there_are_16_to_32_prototypes_per_row_whatever_the_batch(batch: int, crops: int) -> None:
    config = resolve(data={"effective_batch": batch}, views={"global_crops": crops}, objective={"koleo_weight": 0.0})
    assert config.objective.prototypes is not None
    assert config.objective.prototypes.bit_count() == 1
    assert 16 <= prototypes_per_row(config) < 32


def test_a_micro_batch_that_is_balanced_alone_counts_its_own_rows() -> None:
    data = {"effective_batch": 256, "micro_batch": 32}
    assert resolve(data=data, objective={"sinkhorn_scope": "micro"}).objective.prototypes == 1024
    assert resolve(data=data).objective.prototypes == 8192


@pytest.mark.parametrize(
    ("prototypes", "ibot"), [(128, 128), (8192, 4096), (16384, 8192), (2048, 2048), (4096, 4096), (65536, 8192)]
)
def test_ibot_has_half_as_many_from_4096_to_8192_and_never_more(prototypes: int, ibot: int) -> None:
    config = resolve(data={"effective_batch": 1024}, objective={"prototypes": prototypes})
    assert config.objective.ibot_prototypes == ibot


@pytest.mark.parametrize(
    ("images", "prototypes"),
    [(19_999, 1024), (20_000, 2048), (99_999, 4096), (100_000, 16384), (200_000, 32768), (500_000, 65536)],
)
def test_prototypes_that_a_data_set_can_use(images: int, prototypes: int) -> None:
    assert prototypes_for_images(images) == prototypes


def test_more_prototypes_than_the_images_can_use_are_a_warning_with_the_number_to_set() -> None:
    config = resolve(data={"effective_batch": 256})
    (text,) = image_warnings(config, 30_000)
    assert "8192 fit the batch, but 2048 are enough for 30,000 images" in text
    assert not list(image_warnings(config, 100_000))
    assert not list(image_warnings(config, 0))  # not known yet
    assert not list(image_warnings(resolve(data={"effective_batch": 64}), 30_000))  # 2048 anyway
    asked = resolve(data={"effective_batch": 256}, objective={"prototypes": 8192})
    assert not list(image_warnings(asked, 30_000))


@pytest.mark.parametrize(
    ("batch", "steps", "momentum"),
    [
        (2048, None, 0.992),  # the published ViT-L recipe
        (256, None, 0.999),
        (64, None, 0.99975),
        (64, 200_000, 0.99975),
        (256, 50_000, 0.999),
        (256, 20_000, 1 - 50 / 20_000),  # 2 % of the run
        (512, 100_000, 0.998),
        (16, 30, 0.9),  # never less than 10 steps
    ],
)
def test_the_teacher_averages_over_as_many_images_at_any_batch(batch: int, steps: int | None, momentum: float) -> None:
    config, _ = choose(EngineConfig(run=RunSection(max_steps=steps), data=Data(effective_batch=batch)))
    assert config.teacher.momentum == pytest.approx(momentum, abs=1e-12)
    assert config.teacher.momentum_end == (1.0 if steps else config.teacher.momentum)


@pytest.mark.parametrize(
    ("steps", "warmup", "temperature", "freeze"),
    [
        (None, 2500, 10_000, 500),
        (100_000, 10_000, 20_000, 1000),
        (4000, 500, 800, 40),  # 500 are at most 20 %
        (2500, 500, 500, 25),
        (2400, 240, 480, 24),
        (384, 38, 77, 4),
        (1, 0, 0, 0),
    ],
)
def test_warmups_are_shares_of_the_run(steps: int | None, warmup: int, temperature: int, freeze: int) -> None:
    config, _ = choose(EngineConfig(run=RunSection(max_steps=steps)))
    assert config.optimizer.warmup_steps == warmup
    assert config.objective.teacher_temperature_warmup_steps == temperature
    assert config.optimizer.freeze_last_layer_steps == freeze


def test_a_cooldown_changes_nothing_that_a_run_without_end_has_chosen() -> None:
    endless, before = choose(EngineConfig())
    _, after = choose(EngineConfig(run=RunSection(max_steps=22_000), schedule=ScheduleSection(cooldown_steps=2000)))
    assert [(c.path, c.value) for c in after] == [(c.path, c.value) for c in before]
    short, _ = choose(EngineConfig(run=RunSection(max_steps=30), schedule=ScheduleSection(cooldown_steps=10)))
    assert (short.optimizer.warmup_steps, short.teacher.momentum) == (3, endless.teacher.momentum)


def test_what_is_set_is_not_chosen() -> None:
    config = resolve(run={"max_steps": 100}, optimizer={"warmup_steps": 7}, objective={"ibot_weight": 0.0})
    assert config.optimizer.warmup_steps == 7
    chosen = [choice.path for choice in config.choices]
    assert "optimizer.warmup_steps" not in chosen
    assert "objective.ibot_prototypes" not in chosen  # there is no such head
    assert not [path for path in chosen if of(config, path) is None]


def test_every_option_that_names_a_rule_has_one() -> None:
    fields = [
        (f"{section.name}.{field.name}", field)
        for section in attrs.fields(EngineConfig)
        for field in attrs.fields(type(getattr(EngineConfig(), section.name)))
    ]
    assert {path for path, field in fields if field.metadata["rule"]} == set(RULES)


# -- what is refused ------------------------------------------------------------------------------------------

PRESET = (
    """
[run]
max_steps = 20

[data]
effective_batch = 4
"""
    + NETWORK
    + """\

[hardware]
device = "cpu"
"""
)


def check(bigrunner: Runner, *sets: str) -> tuple[int, str]:
    (Path(bigrunner.tmp_path) / "tiny.toml").write_text(PRESET, encoding="utf-8")
    done = warm.bigrun(bigrunner.tmp_path, "check", "tiny.toml", *(word for text in sets for word in ("--set", text)))
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


REFUSED: dict[str, tuple[list[str], list[str]]] = {
    "lengths and sizes": (
        ["objective.prototypes=2048", "optimizer.warmup_steps=21", "objective.teacher_temperature_warmup_steps=22",
         "optimizer.freeze_last_layer_steps=23", "views.global_size_px=36", "views.local_size_px=20"],
        ["objective.prototypes: 2048 prototypes for 8 rows: K/n = 256, targets can never become sharp",
         "optimizer.warmup_steps: 21 steps, but the run has run.max_steps = 20; steps are optimizer steps",
         "objective.teacher_temperature_warmup_steps: 22 steps, but",
         "optimizer.freeze_last_layer_steps: 23 steps, but",
         "views.global_size_px: 36 is not a multiple of model.patch_size_px = 8",
         "views.local_size_px: 20 is not a multiple of model.patch_size_px = 8"],
    ),
    "no RoPE": (
        ["model.heads=3", "model.rope_base=false", "schedule.form=v3"],
        ["model.heads: width 32 must be a multiple of 4 * heads = 12 (RoPE needs it)",
         "model.rope_period_range: set exactly one of rope_base and rope_period_range",
         "schedule.form: expected 'v2' or 'v1', got 'v3'"],
    ),
    "two RoPEs": (
        ["model.rope_period_range=[1.0, 50.0]", "schedule.trunc_extra_fraction=0.1", "schedule.cooldown_form=sqrt"],
        ["model.rope_period_range: set exactly one of rope_base and rope_period_range",
         "schedule.trunc_extra_fraction: has no effect because schedule.form is 'v2'",
         "schedule.cooldown_form: has no effect because schedule.cooldown_steps is absent"],
    ),
    "v1 with an option of v2": (
        ["schedule.form=v1", "schedule.cosine_steps=5"],
        ["schedule.cosine_steps: has no effect because schedule.form is 'v1'"],
    ),
    "ends of a run without end": (
        ["run.max_steps=false", "schedule.form=v1", "schedule.trunc_extra_fraction=0.1",
         "optimizer.weight_decay_end=0.2", "teacher.momentum_end=1.0"],
        ["schedule.trunc_extra_fraction: has no effect: an unlimited run (no run.max_steps) has no cosine",
         "optimizer.weight_decay_end: has no effect: an unlimited run (no run.max_steps) has no end",
         "teacher.momentum_end: has no effect: an unlimited run (no run.max_steps) has no end"],
    ),
    "a cool-down without end": (
        ["run.max_steps=false", "schedule.cooldown_steps=5"],
        ["schedule.cooldown_steps: a cool-down ends with the run: set run.max_steps, the step it begins after plus 5"],
    ),
    "a cool-down that cannot be": (
        ["schedule.cooldown_steps=15", "optimizer.warmup_steps=6", "schedule.form=v1", "optimizer.lr_end_fraction=1",
         "optimizer.weight_decay_end=0.2"],
        ["schedule.cooldown_steps: 15 steps of cool-down and optimizer.warmup_steps = 6 are longer than the run",
         "schedule.cooldown_steps: schedule.form = 'v1' falls along a cosine already",
         "schedule.cooldown_steps: has no effect: optimizer.lr_end_fraction = 1 leaves nothing to fall",
         "optimizer.weight_decay_end: has no effect: only learning rates fall in a cool-down"],
    ),
    "options of the objective": (
        ["objective.koleo_group=2", "objective.koleo_neighbours=2", "objective.koleo_weight=0.1",
         "masking.ratio=[0.5, 0.5]", "objective.centring=softmax", "objective.sinkhorn_iterations=4",
         "objective.queue_steps=1", "objective.ibot_weight=0", "objective.ibot_prototypes=64"],
        ["objective.koleo_neighbours: 2 must be less than koleo_group = 2",
         "masking.ratio: expected [low, high] with 0 <= low < high <= 1, got [0.5, 0.5]",
         "objective.sinkhorn_iterations: has no effect because objective.centring is not 'sinkhorn'",
         "objective.queue_steps: has no effect because only Sinkhorn-Knopp over the effective batch has a queue",
         "objective.ibot_prototypes: has no effect because objective.ibot_weight = 0"],
    ),
    "a group that does not divide": (
        ["objective.koleo_weight=0.1", "objective.koleo_group=3"],
        ["objective.koleo_group: 3 does not divide data.micro_batch = 4"],
    ),
    "dead because of another table": (
        ["objective.ibot_weight=0", "masking.shift=true", "masking.ratio=[0.1, 0.4]"],
        ["masking.shift: has no effect because objective.ibot_weight = 0: remove it",
         "masking.ratio: has no effect because objective.ibot_weight = 0: remove it"],
    ),
    "a group of one": (
        ["objective.koleo_weight=0.1", "data.micro_batch=1"],
        ["objective.koleo_group: groups of 1 leave no 1 neighbours (data.micro_batch = 1): use another micro-batch"],
    ),
    "no loss": (
        ["objective.dino_weight=0", "objective.ibot_weight=0"],
        ["objective.dino_weight: no loss with a teacher is left: dino_weight and ibot_weight are both 0"],
    ),
    "a cool-down after a cosine": (
        ["schedule.cooldown_steps=5", "schedule.cosine_steps=5"],
        ["schedule.cooldown_steps: schedule.cosine_steps makes the values fall already"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_check_refuses_with_exit_code_2_and_the_path_of_each_problem(bigrunner: Runner, name: str) -> None:
    sets, messages = REFUSED[name]
    code, output = check(bigrunner, *sets)
    assert code == 2, output
    assert f"tiny.toml: {len(messages)} problem" in output
    for message in messages:
        assert f"\n  {message}" in output


@pytest.mark.slow
def test_check_says_which_rule_chose_what(bigrunner: Runner) -> None:
    code, output = check(bigrunner, "run.max_steps=1000", "objective.prototypes=false")
    assert code == 0, output
    for line in (
        "by rule      optimizer.warmup_steps = 100 (10 % of the run)",
        "by rule      objective.teacher_temperature_warmup_steps = 200 (20 % of the run)",
        "by rule      optimizer.freeze_last_layer_steps = 10 (1 % of the run)",
        "by rule      objective.prototypes = 128 (power of two from 16 to 32 times the 8 rows per step",
        "by rule      teacher.momentum = 0.95 (averages over 20 steps, 2 % of the run; 256,000 images would be 64000)",
        "by rule      teacher.momentum_end = 1 (cosine to 1)",
    ):
        assert line in output


# -- what is warned of ----------------------------------------------------------------------------------------

QUIET: dict[str, dict[str, Any]] = {"run": {"max_steps": 20_000}, "data": {"effective_batch": 256}}


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"objective": {"prototypes": 65536}}, "K/n = 128 is high, so targets stay soft"),
        (
            {
                "data": {"effective_batch": 128, "micro_batch": 8},
                "objective": {"sinkhorn_scope": "micro", "koleo_weight": 0.0},
            },
            "data.micro_batch = 8: below 64 images Sinkhorn-Knopp has few rows to balance",
        ),
        (
            {"data": {"effective_batch": 128, "micro_batch": 8}},
            "objective.koleo_group = 8: data.micro_batch holds no more, and published runs have 16",
        ),
        ({"data": {"effective_batch": 32}}, "below 64 images Sinkhorn-Knopp has few rows to balance"),
        ({"data": {"effective_batch": 128}, "optimizer": {"betas": [0.9, 0.99]}}, "beta2 = 0.99 averages"),
        ({"teacher": {"momentum": 0.9999}, "run": {"max_steps": 5000}}, "averages over 10,000 steps, longer than"),
        ({"schedule": {"cosine_steps": 20_000}}, "the run ends before it, after 20000 steps with 2000 of warm-up"),
        ({"objective": {"queue_steps": 4}}, "objective.queue_steps = 4: the 512 rows of a step balance 8192"),
    ],
)
def test_each_warning_has_its_cause_alone(tables: dict[str, dict[str, Any]], words: str) -> None:
    assert resolve(**QUIET).warnings == ()
    (warning,) = resolve(**{**QUIET, **{k: QUIET.get(k, {}) | v for k, v in tables.items()}}).warnings
    assert words in warning


def test_a_way_out_that_is_taken_ends_the_warning() -> None:
    small: dict[str, Any] = {"effective_batch": 32}
    for objective in ({"centring": "softmax", "teacher_temperature": 0.05}, {"queue_steps": 7, "prototypes": 8192}):
        config = resolve(run={"max_steps": 100_000}, data=small, objective=objective)
        assert config.warnings == ()


def test_the_header_warns_of_more_prototypes_than_the_images_can_use(bigrunner: Runner) -> None:
    data = {"effective_batch": 64, "workers": 0}
    result = bigrunner.run(steps=1, data=data, objective={"prototypes": False})
    result.assert_finished()
    assert result.run is not None
    warnings = [line for line in result.run.header if line.startswith("warning")]
    assert [line for line in warnings if "2048 fit the batch, but 1024 are enough for 12 images" in line]
