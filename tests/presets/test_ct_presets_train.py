"""The CT presets on real slices: `pytest -m slow --override-ini addopts=-ra tests/presets` (six minutes)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow


def bigrun(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bigrun", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=1800)


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two chest CTs of `bigrun data fetch`."""
    folder = tmp_path_factory.mktemp("ct")
    done = bigrun(folder, "data", "fetch", "chest-ct", "--to", "slices")
    if done.returncode != 0:
        pytest.skip(f"the chest CT cannot be fetched here: {done.stderr.strip()}")
    return folder / "slices"


def losses(directory: Path, name: str = "loss") -> list[float]:
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


def test_the_quickstart_learns_and_draws(chest: Path, tmp_path: Path) -> None:
    done = bigrun(tmp_path, "run", "quickstart_ct", "--set", f"data.path={chest}", "--run-dir", "q")
    assert done.returncode == 0, done.stderr
    parts = ("loss/dino_global", "loss/dino_local", "loss/ibot")
    global_crops, local_crops, patches = (losses(tmp_path / "q", name) for name in parts)
    assert global_crops[0] + local_crops[0] > np.log(256) > global_crops[-1] + local_crops[-1]
    assert patches[-1] < patches[0] - 0.2
    pictures = sorted((tmp_path / "q" / "attention-maps").glob("step_*.png"))
    assert [picture.stem for picture in pictures] == ["step_000000000", "step_000000050", "step_000000100"]
    before, *_, after = (np.asarray(Image.open(picture).convert("RGB"), dtype=float) for picture in pictures)
    assert before.shape == after.shape
    assert np.abs(after - before).mean() > 5  # of 255: the attention and the colours are others


def test_a_vit_small_trains_on_sixteen_bits_with_local_crops(chest: Path, tmp_path: Path) -> None:
    """Two steps of 4 slices of what is otherwise the preset: ViT-S/16, 2 crops of 224 and 8 of 96 pixels."""
    small = ["run.max_steps=2", "run.log_every_steps=1", "data.effective_batch=4", "data.micro_batch=2"]
    small.append("hardware.precision='fp32'")  # bf16 without AMX takes fifty times as long
    sets = [word for setting in (f"data.path={chest}", *small, "data.workers=1") for word in ("--set", setting)]
    done = bigrun(tmp_path, "run", "ct_small", *sets, "--run-dir", "s")
    assert done.returncode == 0, done.stderr
    assert len(losses(tmp_path / "s")) == 2
    assert np.isfinite(losses(tmp_path / "s")).all()
    assert "backbone 21," in done.stdout  # 21.6 million parameters
    assert "109 slices of 2 series" in done.stdout
