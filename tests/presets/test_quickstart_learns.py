"""The quickstart's promise: `pytest -m slow --override-ini addopts=-ra tests/presets` (two minutes per seed)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_trained_features_beat_untrained_ones_and_raw_pixels(seed: int, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "bigrun", "run", "quickstart", "--run-dir", "q", "--set", f"run.seed={seed}"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "q" / "learning-report" / "scores.json").read_text())
    assert scores["step"] == 160
    assert scores["trained"] > scores["untrained"] > scores["raw_pixels"]
