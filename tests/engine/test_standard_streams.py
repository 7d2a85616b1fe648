"""A process that is started without standard streams, as by `>&-` or by some daemons."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from training import Training


@pytest.mark.parametrize(
    "closed",
    [
        "<&- >&- 2>&-",
        pytest.param(">&-", marks=pytest.mark.slow),
        pytest.param("2>&-", marks=pytest.mark.slow),
        pytest.param("<&-", marks=pytest.mark.slow),
    ],
)
def test_a_run_without_them_trains(tmp_path: Path, closed: str) -> None:
    training = Training(tmp_path)
    words = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "bigrun", *training.words()[-2:]]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert training.events("finished")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["presets"], ["launch", "tiny.toml", "--processes", "2"]])
def test_a_command_without_an_output_ends_well(tmp_path: Path, words: list[str]) -> None:
    Training(tmp_path)
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "bigrun", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
