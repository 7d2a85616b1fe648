"""Two plugins of somebody else, bigrun-acme: used by name in an environment where their wheel is installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from layered import Environment, finish, rows_of
from PIL import Image

from bigrun.testing.runner import TINY

pytestmark = pytest.mark.thirdparty

DISTRIBUTION = "bigrun-acme"
PLUGINS = {"variance-penalty": "critical", "slowest-step": "observer"}
BOTH = ("--plugin", "variance-penalty", "--plugin", "slowest-step")


@pytest.fixture(scope="module", autouse=True)
def preset(environment: Environment) -> None:
    """`preset.toml` for eight images, in the environment's folder."""
    images = environment.folder / "images"
    images.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 40, 48, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(images / f"{number}.png")
    tables: dict[str, Any] = {name: dict(table) for name, table in TINY.items()}
    tables["run"] |= {"max_steps": 4}
    tables["data"] |= {"path": str(images)}
    tables["plugins"] = {"metrics-log": {}}
    (environment.folder / "preset.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")


def test_both_plugins_are_listed(environment: Environment) -> None:
    rows = [line.split() for line in finish(environment.bigrun("plugins")).splitlines()]
    assert [row for row in rows if row[0] in PLUGINS] == [
        [name, kind, DISTRIBUTION, "1.2.0", "-"] for name, kind in sorted(PLUGINS.items())
    ]


def test_the_options_are_explained(environment: Environment) -> None:
    table = finish(environment.bigrun("explain", "plugins.variance-penalty"))
    assert "weight (float; default 1.0): Weight of the penalty after the ramp." in table
    option = finish(environment.bigrun("explain", "plugins.variance-penalty.ramp_steps"))
    assert "optimizer steps" in option
    without = finish(environment.bigrun("explain", "plugins.slowest-step"))
    assert "Keeps `slowest-step/slowest.json`" in without
    assert "no options" in without


def test_a_mistyped_option_is_refused_with_its_path(environment: Environment) -> None:
    done = environment.bigrun("check", "preset.toml", *BOTH, "--set", "plugins.variance-penalty.wieght=1.0")
    assert done.returncode == 2
    assert "plugins.variance-penalty.wieght: unknown option - did you mean 'weight'?" in done.stderr


@pytest.mark.slow
def test_a_run_uses_them_and_continues_after_it_died(environment: Environment) -> None:
    straight, died = environment.folder / "straight", environment.folder / "died"
    options = (*BOTH, "--set", "plugins.variance-penalty.ramp_steps=8")
    output = finish(environment.bigrun("run", "preset.toml", *options, "--run-dir", straight))
    assert "finished: 4 optimizer steps" in output
    rows = rows_of(straight)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["loss/variance"] > 0 for row in rows)
    assert [row["variance/weight"] for row in rows] == [1 / 8, 2 / 8, 3 / 8, 4 / 8]
    assert json.loads((straight / "slowest-step" / "slowest.json").read_text(encoding="utf-8"))["step"] in (1, 2, 3, 4)

    shutil.copytree(straight, died)  # as if it had died in its third step
    for step in (3, 4):
        shutil.rmtree(died / "checkpoints" / f"step-{step:08d}")
    output = finish(environment.bigrun("run", "preset.toml", *options, "--run-dir", died))
    assert "resumed after step 2" in output
    assert rows_of(died) == rows


@pytest.mark.parametrize("those", ["not two_processes", pytest.param("two_processes", marks=pytest.mark.slow)])
def test_its_own_tests_pass_with_the_installed_package(
    environment: Environment, sources: Mapping[str, Path], those: str
) -> None:
    source = sources[DISTRIBUTION]
    words = ("-p", "no:cacheprovider", "-k", those, "--rootdir", source, "tests")
    finish(environment.python("-m", "pytest", *words, cwd=source))


@pytest.fixture
def uninstalled(environment: Environment, wheels: Mapping[str, Path]) -> Iterator[Environment]:
    environment.uninstall(DISTRIBUTION)
    yield environment
    environment.install(wheels[DISTRIBUTION])


def test_without_it_the_command_says_what_is_missing(uninstalled: Environment) -> None:
    assert "variance-penalty" not in finish(uninstalled.bigrun("plugins"))
    directory = uninstalled.folder / "missing"
    done = uninstalled.bigrun("run", "preset.toml", *BOTH, "--run-dir", directory)
    assert done.returncode == 2
    assert "plugins.variance-penalty: no such plugin" in done.stderr
    assert "plugins.slowest-step: no such plugin" in done.stderr
    assert "Traceback" not in done.stderr
    assert not directory.exists()
