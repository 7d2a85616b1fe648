"""The benchmark of PNG files runs. What it measures is never asserted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bigrun_ct_import.png import write_png

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "png.py"


@pytest.mark.slow
def test_png_has_a_row_for_each_encoder_and_level(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    write_png(tmp_path / "series" / "000.png", np.random.default_rng(0).integers(0, 65536, (40, 30), dtype=np.uint16))
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--slices", "1", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if ", level " in line]
    assert len(rows) == 20
    (usual,) = [row.split()[-5] for row in rows if row.startswith("up, level 1 ")]
    assert usual == "1.00"


def test_a_folder_without_slices_is_said(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no slices there" in done.stderr
