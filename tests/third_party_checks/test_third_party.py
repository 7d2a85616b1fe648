"""A plugin distribution of somebody else: built as a wheel, installed beside bigrun, used by name.

The fresh environment is a virtual environment on top of the one that runs the tests. So torch is not installed a
second time, and bigrun is the installed one: a wheel under tox, the checkout in an editable install.
"""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import tomli_w
from PIL import Image

from bigrun.testing.runner import TINY

pytestmark = pytest.mark.thirdparty

SOURCE = Path(__file__).parent.parent / "third_party"
DISTRIBUTION = "bigrun-acme"
PLUGINS = {"variance-penalty": "critical", "slowest-step": "observer"}
BOTH = ("--plugin", "variance-penalty", "--plugin", "slowest-step")
TIMINGS = ("steps_per_second", "images_per_second", "data_wait_fraction")


@attrs.frozen
class Environment:
    """A virtual environment that also sees the packages of the one that runs the tests."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Environment:
        venv.create(folder, with_pip=False)
        (packages,) = folder.glob("lib/python*/site-packages")
        # addsitedir, not a plain path: the checkout of an editable install is itself found through a .pth file.
        lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
        (packages / "below.pth").write_text("\n".join(lines), encoding="utf-8")
        return cls(folder)

    def python(self, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run this environment's Python in a folder, by default its own."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHON"))}
        return subprocess.run(
            [self.folder / "bin" / "python", *arguments],
            cwd=cwd or self.folder,
            env=inherited | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def bigrun(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return self.python("-m", "bigrun", *arguments)

    def install(self, wheel: Path) -> None:
        # bigrun is there already; --no-index so that nothing else can be meant.
        finish(self.python("-m", "pip", "install", "--no-deps", "--no-index", wheel))

    def uninstall(self) -> None:
        finish(self.python("-m", "pip", "uninstall", "--yes", DISTRIBUTION))


def finish(done: subprocess.CompletedProcess[str]) -> str:
    """The output of a command that must succeed."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the distribution's source, since a build leaves folders in it."""
    return Path(shutil.copytree(SOURCE, tmp_path_factory.mktemp("source") / DISTRIBUTION))


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    finish(
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", source],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    )
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment with the wheel, and in its folder `preset.toml` for eight images."""
    environment = Environment.create(tmp_path_factory.mktemp("fresh") / "venv")
    environment.install(wheel)
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
    return environment


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


def rows_of(directory: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` without the measured times."""
    rows = map(json.loads, (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]


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


def test_its_own_tests_pass_with_the_installed_package(environment: Environment, source: Path) -> None:
    finish(environment.python("-m", "pytest", "-p", "no:cacheprovider", "--rootdir", source, "tests", cwd=source))


@pytest.fixture
def uninstalled(environment: Environment, wheel: Path) -> Iterator[Environment]:
    environment.uninstall()
    yield environment
    environment.install(wheel)


def test_without_it_the_command_says_what_is_missing(uninstalled: Environment) -> None:
    assert "variance-penalty" not in finish(uninstalled.bigrun("plugins"))
    directory = uninstalled.folder / "missing"
    done = uninstalled.bigrun("run", "preset.toml", *BOTH, "--run-dir", directory)
    assert done.returncode == 2
    assert "plugins.variance-penalty: no such plugin" in done.stderr
    assert "plugins.slowest-step: no such plugin" in done.stderr
    assert "Traceback" not in done.stderr
    assert not directory.exists()
