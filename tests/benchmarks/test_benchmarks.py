"""The benchmarks run and print what their README describes. What they measure is never asserted."""

from __future__ import annotations

import itertools
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *arguments: str) -> list[str]:
    """Lines of the output."""
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def tables(lines: list[str]) -> list[dict[str, list[str]]]:
    """Every table: name -> its other cells, without the empty ones. A rule of dashes stands above the rows."""
    found = []
    for rule in (i for i, line in enumerate(lines) if line and set(line) == {"-", " "}):
        rows = itertools.takewhile(str.strip, lines[rule + 1 :])
        cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in rows]
        found.append({name: values for name, *values in cells})
    return found


def assert_header(lines: list[str]) -> None:
    assert [line.split()[0] for line in lines[1:5]] == ["command", "date", "hardware", "software"]


@pytest.mark.slow
def test_overhead_compares_loops_that_do_the_same_work() -> None:
    lines = run(
        "overhead.py",
        *("--model", "tiny", "--rounds", "2", "--warmup-rounds", "1", "--hook-rounds", "1", "--bar-seconds", "0.2"),
    )
    assert_header(lines)
    assert lines[5].startswith("work      20 steps each")
    steps, hooks = tables(lines)
    assert list(steps) == ["plain loop", "plain loop, again", "engine", "engine + plugins"]
    assert steps["engine"][-1] == "<= 1.01"
    assert steps["engine + plugins"][-1] == "<= 1.02"
    assert list(hooks) == ["engine", "engine + plugins"]
    assert lines[-1].startswith("progress bar on a terminal: ")


def test_startup_has_a_row_for_each_command() -> None:
    lines = run("startup.py", "--repeats", "1", "--only", "help", "plugins")
    assert_header(lines)
    (commands,) = tables(lines)
    assert list(commands) == ["python -c pass", "bigrun --help", "bigrun plugins"]
    assert [cells[-1] for name, cells in commands.items() if name.startswith("bigrun")] == ["< 300", "< 300"]


@pytest.mark.slow
def test_checkpoint_has_a_row_for_each_way_of_saving() -> None:
    lines = run("checkpoint.py", "--architectures", "vit_test", "--rounds", "1")
    assert_header(lines)
    (ways,) = tables(lines)
    assert list(ways) == [
        "one copy in memory",
        "bigrun, background",
        "bigrun, foreground",
        "torch.save",
        "torch.save, fsync",
        "DCP async_save",
    ]
    assert ways["one copy in memory"][-1] == "1.00"
    assert len(ways["bigrun, background"]) == 5  # stall, on disk, verify, load, ratio


@pytest.mark.slow
def test_a_short_soak_loses_nothing() -> None:
    lines = run("soak.py", "--cycles", "6", "--rounds-of", "12", "--seed", str(random.randrange(2**31)))
    assert_header(lines)
    (harm,) = tables(lines)
    assert sum(int(cells[0]) for cells in harm.values()) == 6
    match = re.search(r"bit for bit: (\d+) of (\d+) rounds", lines[-1])
    assert match is not None, lines
    assert match[1] == match[2]
