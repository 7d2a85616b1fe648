"""The page of metrics: it has what runs record, all of it, and the limits that the code has."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from fenced import ROOT
from PIL import Image

from bigrun.config import Document
from bigrun.data.wait import PATIENCE, SHORT, TOO_LONG
from bigrun.entry_points import installed
from bigrun.errors import ExitCode
from bigrun.evaluation.facts import Facts
from bigrun.session import run_training
from bigrun.testing.runner import Runner
from bigrun_features.config import HealthConfig
from bigrun_guard.config import GuardConfig
from bigrun_guard.indicators import FEW, INFORMATIVE, UNIFORM, indicators
from bigrun_guard.modules import MEMORY_STEPS
from bigrun_probes.config import ProbesConfig
from bigrun_probes.health import FALLEN
from bigrun_telemetry.flags import SLOW, VERY_SLOW

PAGE = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
HOW_TO = (ROOT / "docs" / "how-to" / "see-that-it-learns.md").read_text(encoding="utf-8")
HEADER = "| name | definition | unit | healthy range |"
RECORDED = re.compile(r"^Recorded by (the engine|`[\w-]+`)[,:]", re.MULTILINE)
PLACEHOLDER = re.compile(r"(?<=[/_])(NAME|MODULE|N)$")
NEEDS_A_GPU = {"mfu_of_measured_fraction"}


@attrs.frozen
class Row:
    """A metric of the page."""

    section: str
    name: str
    definition: str
    unit: str
    healthy: str

    def stands_for(self, name: str) -> bool:
        """Whether it describes a metric of this name."""
        end = PLACEHOLDER.search(self.name)
        if end is None:
            return name == self.name
        return re.fullmatch(re.escape(self.name[: end.start()]) + r"[\w-]+", name) is not None


def sections() -> Mapping[str, str]:
    """The text below each heading that has a table of metrics."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    return {title: text for title, text in zip(parts[1::2], parts[2::2], strict=True) if HEADER in text}


def read_rows() -> Iterator[Row]:
    for title, text in sections().items():
        for line in text.partition(f"{HEADER}\n|---|---|---|---|\n")[2].partition("\n\n")[0].splitlines():
            name, *others = (cell.strip() for cell in line.strip("|").split("|"))
            yield Row(title, name.strip("`"), *others)


ROWS = list(read_rows())
BY_NAME = {row.name: row for row in ROWS}


def numbers(text: str) -> set[float]:
    return {float(found) for found in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-\d+)?", text.replace(" %", "e-2"))}


# -- form -----------------------------------------------------------------------------------------------------


def test_every_metric_stands_once() -> None:
    assert len(ROWS) > 50
    assert len(BY_NAME) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_metric_has_a_definition_a_unit_and_a_healthy_range(row: Row) -> None:
    assert row.definition
    assert row.unit
    assert re.search(r"\d|\bnone: \w|\bas `", row.healthy)
    if row.healthy.startswith("none"):
        assert re.match(r"none: \w+ \w+", row.healthy), "why is there none?"
    for other in re.findall(r"\bas \[?`([^`]+)`", row.definition + row.healthy):
        assert other in BY_NAME


@pytest.mark.parametrize("title", sections())
def test_a_section_says_who_records_when_and_over_what_it_is_averaged(title: str) -> None:
    paragraphs = [p for p in sections()[title].split("\n\n") if RECORDED.match(p.strip())]
    assert len(paragraphs) == 1
    assert re.search(r"; (not )?averaged over", " ".join(paragraphs[0].split()))
    assert re.search(r" in (every|the) (step|row)", " ".join(paragraphs[0].split()))


# -- what runs record -----------------------------------------------------------------------------------------


def recorders() -> set[str]:
    """The built-in plugins whose code records metrics."""
    plugins = ROOT / "plugins"
    files = [path for path in plugins.rglob("*.py") if re.search(r"metrics\.record", path.read_text(encoding="utf-8"))]
    packages = {path.relative_to(plugins).parts[0] for path in files}
    return {plugin.name for plugin in installed().values() if plugin.target.partition(".")[0] in packages}


def write_images(folder: Path, masks: Path) -> None:
    """Two classes of six images with a mask each, and a file that is no image."""
    draw = np.random.default_rng(0)
    for number in range(12):
        for place in (folder, masks):
            (place / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 255, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"class{number % 2}" / f"{number}.png")
        Image.fromarray((pixels[..., 0] > 99).astype(np.uint8)).save(masks / f"class{number % 2}" / f"{number}.png")
    (folder / "page.jpg").write_text("<!doctype html><html>404</html>", encoding="utf-8")


def recorded(document: Document, directory: Path) -> set[str]:
    """The names in the rows that a run has written."""
    _, code = run_training(document, directory)
    assert code == ExitCode.FINISHED
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {name for line in lines for name in json.loads(line)} - {"step"}


def options(masks: Path) -> dict[str, dict[str, Any]]:
    """Of every plugin that records metrics, such that it records all it can in 12 steps."""
    return {
        "attention-maps": {"images": 1, "side_px": 16, "heights": [1.0], "every_steps": 6},
        "feature-health": {"images": 6, "every_steps": 6, "settle_steps": 0},
        "gram-anchoring": {"snapshot_step": 1, "start_step": 2, "ramp_steps": 1},
        "probes": {"labels": "folder", "masks": str(masks), "k": 1},
    }


def test_the_page_has_the_metrics_that_runs_record_and_no_others(bigrunner: Runner, tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    write_images(images, masks)
    plugins = options(masks)
    assert plugins.keys() == recorders(), "a plugin records metrics, or does so no more"
    document = bigrunner.document(
        {**plugins, "metrics-log": {}},
        steps=12,
        run={"checkpoint_every_steps": 12},
        data={"path": str(images)},
        objective={"koleo_weight": 0.1},
        hardware={"precision": "bf16", "peak_tflops": 1.0},
    )
    names = recorded(document, tmp_path / "run")
    assert not [name for name in names if not any(row.stands_for(name) for row in ROWS)], "a metric is not described"
    silent = {row.name for row in ROWS if not any(row.stands_for(name) for name in names)}
    assert silent == NEEDS_A_GPU, "nobody has recorded it"


def test_what_a_bare_run_lacks_is_said_to_be_absent_at_times(bigrunner: Runner, tmp_path: Path) -> None:
    images = tmp_path / "images"
    write_images(images, tmp_path / "masks")
    (images / "page.jpg").unlink()
    document = bigrunner.document(
        {"metrics-log": {}},
        steps=1,
        accumulate=4,  # a micro-batch has one image
        data={"path": str(images)},
        views={"local_crops": 0, "local_size_px": None},
        objective={"koleo_weight": 0.0, "ibot_weight": 0.0},
    )
    names = recorded(document, tmp_path / "run")
    by_engine = {title for title, text in sections().items() if "Recorded by the engine" in text}
    lacking = [row for row in ROWS if row.section in by_engine and not any(row.stands_for(name) for name in names)]
    assert {"loss/dino_local", "class_spread", "bad_images"} <= {row.name for row in lacking}
    for row in lacking:
        assert "absent" in row.definition.lower(), row.name


def test_who_is_said_to_record_does_so() -> None:
    said = {name.strip("`") for name in RECORDED.findall(PAGE)}
    assert said == recorders() | {"the engine"}


# -- limits ---------------------------------------------------------------------------------------------------

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


def test_limits_of_others_are_those_of_the_code() -> None:
    assert {TOO_LONG, SHORT, PATIENCE} <= numbers(BY_NAME["data_wait_fraction"].healthy)
    assert {SLOW, VERY_SLOW} <= numbers(BY_NAME["steps_per_second"].healthy)
    ratio = "probe/retrieval_ratio_to_chance"
    assert default(ProbesConfig(), "retrieval_warn_ratio") <= numbers(BY_NAME[ratio].healthy)
    for row in ROWS:
        assert row.section != "Probes" or row.name == ratio or FALLEN in numbers(row.healthy), row.name
