"""The page of metrics has the limits that the code has."""

from __future__ import annotations

import math
import re

import attrs
import pytest
from fenced import ROOT
from metrics_page import BY_NAME, PAGE, ROWS, numbers

from bigrun.data.wait import PATIENCE, SHORT, TOO_LONG
from bigrun.evaluation.facts import Facts
from bigrun_features.config import HealthConfig
from bigrun_guard.config import GuardConfig
from bigrun_guard.indicators import FEW, INFORMATIVE, UNIFORM, indicators
from bigrun_guard.modules import MEMORY_STEPS
from bigrun_guard.rise import BEGINNING_STEPS, RECENT_STEPS, SMALL
from bigrun_probes.config import ProbesConfig
from bigrun_probes.health import FALLEN
from bigrun_telemetry.flags import SLOW, VERY_SLOW

HOW_TO = (ROOT / "docs" / "how-to" / "see-that-it-learns.md").read_text(encoding="utf-8")

NO_LIMITS = {"images", "every_steps", "keep_gib", "settle_steps"}
"""Options of feature-health."""
NO_GUARD_LIMITS = {"repeat_within_steps", "remind_steps"}
"""Options of anomaly-guard, beside its ladders."""
HEALTH = {
    "class_spread": "health/class_spread",
    "rank_fraction": "health/rank_fraction",
    "patch_cosine": "health/patch_cosine",
    "class_patch_cosine": "health/class_patch_cosine",
    "koleo": "health/koleo",
    "entropy_fraction": "health/target_entropy_fraction",
    "wall_steps": "health/target_entropy_fraction",
    "one_hot_entropy_fraction": "health/target_entropy_fraction",
    "marginal_entropy_fraction": "health/marginal_entropy_fraction",
    "student_divergence": "health/student_divergence",
    "prototypes_used_fraction": "health/prototypes_used_fraction",
    "gradient_factor": "health/gradient_factor/MODULE",
}
GUARD = {
    "loss_spike_factor": "loss",
    "window_steps": "loss",
    "divergence_loss_factor": "loss",
    "spike_z": "loss",
    "gradient_spike_factor": "grad_norm",
    "wall_entropy_fraction": "target_entropy_fraction",
    "wall_steps": "target_entropy_fraction",
    "one_hot_entropy_fraction": "target_entropy_fraction",
    "marginal_entropy_fraction": "marginal_entropy_fraction",
    "prototypes_used_fraction": "prototypes_used_fraction",
    "class_spread": "class_spread",
    "patch_cosine": "patch_cosine",
    "class_patch_cosine": "class_patch_cosine",
    "koleo": "koleo",
    "dead_module_steps": "grad_norm/MODULE",
    "dead_module_fraction": "grad_norm/MODULE",
}
IN_TEXT = {
    "minimum_steps": "How to read the tables",
    "settle_steps": "How to read the tables",
    "hold_steps": "How to read the tables",
    "stuck_steps": "Losses",
    "stuck_fraction": "Losses",
    "divergence_factor": "Targets and prototypes",
    "rank_fraction": "Features of the step",
    "rank_every_steps": "Features of the step",
}
"""Options of anomaly-guard that stand below a heading, and not in a row."""


def default(config: object, option: str) -> set[float]:
    value = getattr(config, option)
    return {float(number) for number in (value if isinstance(value, tuple) else (value,))}


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def in_order(pair: tuple[float, float], first: str, second: str) -> re.Pattern[str]:
    """Both limits, each behind its word and with the side on which it is passed."""
    side = "below" if pair[0] > pair[1] else "above"
    warn, fail = (rf"(?: is)? {side} {re.escape(f'{limit:g}')}(?!\.?\d)" for limit in pair)
    return re.compile(rf"(?i:{first}){warn}.*{second}{fail}", re.DOTALL)


GUARD_WORDS = ("`near-collapse`", "`collapse`")


def test_every_limit_is_known_here() -> None:
    assert {field.name for field in attrs.fields(HealthConfig)} - NO_LIMITS == HEALTH.keys()
    ladders = {kind.replace("-", "_") for kind in GuardConfig().ladders()}
    assert not GUARD.keys() & IN_TEXT.keys()
    limits = {field.name for field in attrs.fields(GuardConfig)} - ladders - NO_GUARD_LIMITS
    assert limits == GUARD.keys() | IN_TEXT.keys()


@pytest.mark.parametrize(("option", "name"), HEALTH.items())
def test_limits_of_feature_health_are_those_of_the_code(option: str, name: str) -> None:
    limits, value = default(HealthConfig(), option), getattr(HealthConfig(), option)
    assert limits <= numbers(BY_NAME[name].healthy)
    if isinstance(value, tuple):
        assert in_order(value, "warn", "fail").search(BY_NAME[name].healthy)
    if option == "wall_steps":
        return
    short = re.escape(name.removeprefix("health/"))
    (row,) = re.findall(rf"^\|[^|]*`{short}`[^|]*\|[^|]*(\|.*)$", HOW_TO, re.MULTILINE)
    assert limits <= numbers(row), "docs/how-to/see-that-it-learns.md"
    if isinstance(value, tuple):
        assert in_order(value, r"\|", r"\|").search(row), "docs/how-to/see-that-it-learns.md"


@pytest.mark.parametrize(("option", "name"), GUARD.items())
def test_limits_of_anomaly_guard_are_those_of_the_code(option: str, name: str) -> None:
    assert default(GuardConfig(), option) <= numbers(BY_NAME[name].healthy)
    value = getattr(GuardConfig(), option)
    if isinstance(value, tuple):
        assert in_order(value, *GUARD_WORDS).search(BY_NAME[name].healthy)


@pytest.mark.parametrize(("option", "title"), IN_TEXT.items())
def test_limits_in_the_text_are_those_of_the_code(option: str, title: str) -> None:
    assert default(GuardConfig(), option) <= numbers(section(title))
    value = getattr(GuardConfig(), option)
    if isinstance(value, tuple):
        assert in_order(value, *GUARD_WORDS).search(section(title))


FACTS = Facts(warmup_steps=0, release_step=None, rows=128, log_every_steps=1, is_fresh=True, prototypes=4096)
LN_K, FLOOR = math.log(4096), math.log(4096 / 128) / math.log(4096)
ENTROPY, DIVERGENCE = "target_entropy_fraction", "student_divergence"


@pytest.mark.parametrize(
    ("key", "said", "healthy", "bad"),
    [
        (
            f"collapse/{ENTROPY}/high",
            f"`collapse` above {UNIFORM} for `wall_steps`",
            [{ENTROPY: UNIFORM - 1e-6}],
            [{ENTROPY: UNIFORM + 1e-6}],
        ),
        (
            "agreement",
            f"`collapse` below 0.01 for `wall_steps` (1000) while `{ENTROPY}` is outside of ln(K / n) / ln K + 0.02 to "
            f"{UNIFORM}",
            [
                {DIVERGENCE: 0.0101, ENTROPY: 1.0},
                {DIVERGENCE: 0.0099, ENTROPY: UNIFORM - 1e-6},
                {DIVERGENCE: 0.0099, ENTROPY: FLOOR + 0.0201},
            ],
            [{DIVERGENCE: 0.0099, ENTROPY: UNIFORM + 1e-6}, {DIVERGENCE: 0.0099, ENTROPY: FLOOR + 0.0199}],
        ),
        (
            "student-wall",
            f"within 0.005 of 1 for 300 steps (`stuck_steps`) while `{ENTROPY}` is below {INFORMATIVE}",
            [
                {ENTROPY: 0.9, DIVERGENCE: 0.0949 * LN_K},
                {ENTROPY: 0.9, DIVERGENCE: 0.1051 * LN_K},
                {ENTROPY: INFORMATIVE + 1e-6, DIVERGENCE: 0.05 * LN_K},
            ],
            [
                {ENTROPY: 0.9, DIVERGENCE: 0.0951 * LN_K},
                {ENTROPY: 0.9, DIVERGENCE: 0.1049 * LN_K},
                {ENTROPY: INFORMATIVE - 1e-6, DIVERGENCE: 0.05 * LN_K},
            ],
        ),
        (
            "rank",
            f"fewer than {FEW:g} dimensions where 100 are possible",
            [{"rank_me": FEW, "rank_fraction": FEW / 200}, {"rank_me": FEW - 0.1, "rank_fraction": (FEW - 0.1) / 99}],
            [{"rank_me": FEW - 0.1, "rank_fraction": (FEW - 0.1) / 101}],
        ),
        (
            "collapse/prototypes_used_fraction/low",
            "or where a single one is used",
            [{"prototypes_used_fraction": 2 / 128}],
            [{"prototypes_used_fraction": 1 / 128}],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_limits_of_anomaly_guard_that_are_no_options(
    key: str, said: str, healthy: list[dict[str, float]], bad: list[dict[str, float]]
) -> None:
    assert said in " ".join(PAGE.split())
    (indicator,) = (each for each in indicators(GuardConfig(), FACTS) if each.key == key)
    assert [values for values in healthy if indicator.is_bad(values)] == []
    assert [values for values in bad if not indicator.is_bad(values)] == []


def test_modules_are_measured_against_as_many_steps_as_is_said() -> None:
    assert f"of its median of {MEMORY_STEPS} steps" in BY_NAME["grad_norm/MODULE"].healthy


def test_the_beginning_of_the_loss_is_as_long_as_is_said() -> None:
    text = " ".join(section("Losses").split())
    assert f"the median of the last {RECENT_STEPS} accepted steps" in text
    assert (
        f"the median of the first {BEGINNING_STEPS} of the run, from step {BEGINNING_STEPS + RECENT_STEPS} on" in text
    )
    assert f"or less than {100 * SMALL:g} % of the loss, do not count" in text
    assert f"the first {BEGINNING_STEPS} steps" in BY_NAME["loss"].healthy


def test_limits_of_others_are_those_of_the_code() -> None:
    assert {TOO_LONG, SHORT, PATIENCE} <= numbers(BY_NAME["data_wait_fraction"].healthy)
    assert {SLOW, VERY_SLOW} <= numbers(BY_NAME["steps_per_second"].healthy)
    ratio = "probe/retrieval_ratio_to_chance"
    assert default(ProbesConfig(), "retrieval_warn_ratio") <= numbers(BY_NAME[ratio].healthy)
    for row in ROWS:
        assert row.section != "Probes" or row.name == ratio or FALLEN in numbers(row.healthy), row.name
