"""What a command of `bigrun` costs before it does anything, in CPU time of its process.

python benchmarks/startup.py                         about a minute of CPU time, most of it in torch
python benchmarks/startup.py --only help plugins     the two that have a target
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from reporting import header, positive, table
from stepping import Seconds

BASE = "python -c pass"
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "bigrun --help": ["--help"],
    "bigrun --version": ["--version"],
    "bigrun plugins": ["plugins"],
    "bigrun presets": ["presets"],
    "bigrun explain model.depth": ["explain", "model.depth"],
    "bigrun check quickstart": ["check", "quickstart"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
}
TARGETS_MS = {"bigrun --help": 300, "bigrun plugins": 300}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=positive, default=15, help="measured rounds over all commands  [15]")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="commands that have one of these words")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    print(header("Start-up: CPU time of a command"), flush=True)
    commands = {
        name: words if words[0] == sys.executable else [*bigrun(), *words]
        for name, words in COMMANDS.items()
        if name == BASE or not options.only or any(word in name for word in options.only)
    }
    spent = measure(commands, options.repeats)
    base = min(s.cpu for s in spent[BASE])
    rows = []
    for name, seconds in spent.items():
        cpu, wall = [s.cpu for s in seconds], [s.wall for s in seconds]
        times = (min(cpu), statistics.median(cpu), statistics.median(wall))
        target = f"< {TARGETS_MS[name]}" if name in TARGETS_MS else ""
        rows.append([name, *(f"{1e3 * t:.0f}" for t in times), f"{min(cpu) / base:.1f}", target])
    titles = ("command", "CPU ms, least", "CPU ms, median", "wall ms, median", "least / `pass`", "target, CPU ms")
    print(f"\n{table(titles, rows)}")
    return 0


def bigrun() -> list[str]:
    """The installed script, as a user calls it."""
    script = Path(sys.executable).with_name("bigrun")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "bigrun"]


def measure(commands: dict[str, list[str]], repeats: int) -> dict[str, list[Seconds]]:
    """All commands in turn, so many times; the first turn fills the disk cache and the bytecode, and is dropped."""
    spent: dict[str, list[Seconds]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(repeats + 1):
            for name, words in commands.items():
                seconds = run(words, scratch)
                if turn:
                    spent[name].append(seconds)
    return spent


def run(words: Sequence[str], directory: str) -> Seconds:
    """User and system time of one child and of its own children, and wall time."""
    start = time.perf_counter()
    child = subprocess.Popen(words, cwd=directory, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(words)} ended with exit code {child.returncode}")
    return Seconds(wall, usage.ru_utime + usage.ru_stime)


if __name__ == "__main__":
    sys.exit(main())
