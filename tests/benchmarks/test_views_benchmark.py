"""The benchmark of the views runs, with and without its peers. What it measures is never asserted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "views.py"


@pytest.mark.slow
def test_views_has_a_row_for_bigrun_and_says_who_is_missing() -> None:
    command = [sys.executable, str(SCRIPT), "--rounds", "1", "--images", "1", "--tile-px", "128"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["command", "date", "hardware", "software", "work"]
    assert lines[5].startswith("work      1 photographs of at most 128 x 128 pixels, uint8; 2 x 224 + 8 x 96 px each")
    (rule,) = (i for i, line in enumerate(lines) if line and set(line) == {"-", " "})
    names = [line.partition("  ")[0] for line in lines[rule + 1 :] if line]
    assert names[0] == "bigrun"
    assert lines[rule + 1].split()[-3:] == ["1.00"] * 3
    if len(names) == 2:
        assert names[1].startswith("torchvision is not measured (")
    else:
        assert [name.split()[-1] for name in names[1:]] == ["tensors", "PIL"]
