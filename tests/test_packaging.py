"""The built wheel, in an environment of its own and away from the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import bigrun
from bigrun.config import shipped_presets

ROOT = Path(__file__).parent.parent


def succeed(*arguments: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(a) for a in arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    succeed(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; the libraries that it needs are lent from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    succeed(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    succeed(
        sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--no-deps", "--no-index",
        "--quiet", "--ignore-installed", wheel, cwd=folder,
    )  # fmt: skip
    return folder / "bin"


def test_the_wheel_has_what_the_source_has(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {
        str(path.relative_to(root)) for root in (ROOT / "engine", ROOT / "plugins") for path in root.rglob("*.py")
    }
    assert sources <= names
    assert {f"bigrun/presets/{name}.toml" for name in shipped_presets()} <= names
    assert {name for name in names if name.endswith("py.typed")} >= {"bigrun/py.typed", "bigrun_gram/py.typed"}
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {
        source.split("/")[0] for source in sources
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_presets_and_plugins_are_found_outside_the_repository(environment: Path, tmp_path: Path) -> None:
    where = succeed(environment / "python", "-c", "import bigrun; print(bigrun.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(environment.parent)
    assert succeed(environment / "bigrun", "--version", cwd=tmp_path).split()[-1] == bigrun.__version__
    presets = succeed(environment / "bigrun", "presets", cwd=tmp_path)
    assert not [name for name in shipped_presets() if name not in presets]
    assert "gram-anchoring" in succeed(environment / "bigrun", "plugins", cwd=tmp_path)


def test_the_quickstart_runs_outside_the_repository(environment: Path, tmp_path: Path) -> None:
    """Four steps of it, with every part: Gram anchoring, rotation, the report."""
    shorter = {
        "run.max_steps": 4,
        "data.effective_batch": 8,
        "optimizer.warmup_steps": 1,
        "objective.teacher_temperature_warmup_steps": 1,
        "plugins.gram-anchoring.snapshot_step": 1,
        "plugins.gram-anchoring.start_step": 3,
        "plugins.gram-anchoring.refresh_every_steps": 1,
        "plugins.learning-report.patch_px": 170,  # few patches
    }
    sets = [word for key, value in shorter.items() for word in ("--set", f"{key}={value}")]
    output = succeed(environment / "bigrun", "run", "quickstart", *sets, cwd=tmp_path)
    assert "finished: 4 optimizer steps, 32 images" in output
    run = tmp_path / "runs" / "quickstart"
    for file in ("learning-report/loss.png", "learning-report/patch_features.png", "learning-report/scores.json"):
        assert (run / file).stat().st_size > 0
