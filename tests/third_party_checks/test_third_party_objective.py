"""An objective of somebody else, bigrun-mae: used by name in an environment where its wheel is installed."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from layered import Environment, finish, rows_of
from PIL import Image

from bigrun.testing.runner import TINY

pytestmark = pytest.mark.thirdparty

DISTRIBUTION = "bigrun-mae"
NAME = "masked-reconstruction"
ROOT = Path(__file__).parents[2]
STEPS = 30


@pytest.fixture(scope="module")
def preset(environment: Environment) -> Path:
    """A preset with Gram anchoring in its last third, for images that grow brighter in one direction each."""
    images = environment.folder / "slopes"
    images.mkdir()
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    for number in range(12):
        angle = 2 * math.pi * number / 12
        slope = (x * math.cos(angle) + y * math.sin(angle)) / math.sqrt(2)  # -1 to 1
        Image.fromarray((127.5 * (slope + 1)).astype(np.uint8)).save(images / f"{number}.png")
    tables: dict[str, Any] = {name: dict(table) for name, table in TINY.items() if name != "objective"}
    tables["run"] = {"max_steps": STEPS, "log_every_steps": 1, "checkpoint_every_steps": 10}
    tables["data"] |= {"effective_batch": 16, "path": str(images)}
    tables["model"] |= {"drop_path_fraction": 0.0, "rope_rescale_factor": False, "layerscale": False}
    tables["views"] = {"global_size_px": 32, "local_crops": 0}
    tables["optimizer"] = {"base_lr": 3e-3, "lr_rule": "none", "warmup_steps": 3}
    anchor = {"snapshot_step": 10, "start_step": 20, "ramp_steps": 5}
    tables["plugins"] = {"metrics-log": {}, "gram-anchoring": anchor}
    path = environment.folder / "slopes.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


def test_it_is_listed_and_explained(environment: Environment) -> None:
    rows = [line.split() for line in finish(environment.bigrun("plugins")).splitlines()]
    assert [NAME, "critical", DISTRIBUTION, "0.3.0", "-"] in rows
    table = finish(environment.bigrun("explain", f"plugins.{NAME}"))
    assert "mask_fraction (float; default 0.6): Share of a crop's patches that the student does not see." in table


def test_check_says_what_is_trained_and_nothing_of_the_objective_that_is_not(
    environment: Environment, preset: Path
) -> None:
    output = finish(environment.bigrun("check", preset, "--plugin", NAME))
    assert f"objective    MaskedObjective, of plugin {NAME}" in output
    assert "parameters   decoder" in output
    for word in ("prototypes", "Sinkhorn", "not trained", "momentum", "temperature"):
        assert word not in output


@pytest.mark.slow
def test_a_run_learns_and_continues_after_it_died(environment: Environment, preset: Path) -> None:
    straight, died = environment.folder / "masked", environment.folder / "masked-died"
    output = finish(environment.bigrun("run", preset, "--plugin", NAME, "--run-dir", straight))
    assert f"finished: {STEPS} optimizer steps" in output
    rows = rows_of(straight)
    terms = [row["loss/reconstruction"] for row in rows]
    assert terms[0] == pytest.approx(1.0, abs=0.05)  # what a guess costs that does not look at the visible patches
    assert sum(terms[-5:]) / 5 < 0.65
    assert all(row["loss/gram"] > 0 for row in rows[20:])

    shutil.copytree(straight, died)  # as if it had died in its 21st to 30th step
    shutil.rmtree(died / "checkpoints" / f"step-{STEPS:08d}")
    output = finish(environment.bigrun("run", preset, "--plugin", NAME, "--run-dir", died))
    assert "resumed after step 20" in output
    assert rows_of(died) == rows


def test_the_how_to_shows_its_files() -> None:
    page = (ROOT / "docs" / "how-to" / "write-an-objective.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"<!-- file: bigrun_mae/(\S+) -->\n```python\n(.*?)```\n", page, flags=re.DOTALL))
    source = ROOT / "tests" / "third_party_objective" / "src" / "bigrun_mae"
    files = {path.name: path.read_text(encoding="utf-8") for path in source.glob("*.py") if path.name != "__init__.py"}
    assert shown == files


@pytest.mark.slow
def test_its_own_tests_pass_with_the_installed_package(environment: Environment, sources: Mapping[str, Path]) -> None:
    source = sources[DISTRIBUTION]
    finish(environment.python("-m", "pytest", "-p", "no:cacheprovider", "--rootdir", source, "tests", cwd=source))
