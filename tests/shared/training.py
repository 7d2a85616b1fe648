"""Training in a process of its own, on real files, to be harmed."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import warm
from PIL import Image

from bigrun.testing.runner import TINY

__all__ = ["Training", "merge"]

PRESET: dict[str, Any] = {
    "run": {"max_steps": 6, "log_every_steps": 1, "checkpoint_every_steps": 2},
    "data": {"path": "images", "effective_batch": 4, "workers": 0},
    "hardware": {"device": "cpu", "precision": "fp32", "threads": 1},
    "plugins": {"console": {}, "metrics-log": {}},
}
# Far more steps than a machine takes while a test waits for a few; what a rule makes a share of them is none.
ENDLESS: dict[str, Any] = {
    "run": {"max_steps": 1_000_000, "checkpoint_every_steps": 1_000_000},
    "optimizer": {"warmup_steps": 0, "freeze_last_layer_steps": 0},
    "objective": {"teacher_temperature_warmup_steps": 0},
}


def merge(*tables: dict[str, Any]) -> dict[str, Any]:
    """Tables of tables in one; later ones win."""
    result: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            result[key] = merge(result.get(key, {}), value) if isinstance(value, dict) else value
    return result


class Training:
    """A folder with ten images and `tiny.toml`, and `bigrun` in it as a user types it."""

    def __init__(self, folder: Path, **tables: dict[str, Any]) -> None:
        self.folder = folder
        self.run = folder / "runs" / "tiny"
        (folder / "images").mkdir()
        rng = np.random.default_rng(0)
        for number in range(10):
            pixels = rng.integers(0, 255, (40 + number, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        self.configure(**tables)

    def configure(self, **tables: dict[str, Any]) -> None:
        """Write the preset anew."""
        (self.folder / "tiny.toml").write_text(tomli_w.dumps(merge(TINY, PRESET, tables)), encoding="utf-8")

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`bigrun run tiny.toml ...` to its end."""
        return warm.bigrun(self.folder, "run", "tiny.toml", *arguments)

    def together(self, processes: int, *arguments: str) -> list[subprocess.CompletedProcess[str]]:
        """The same in so many processes; by rank."""
        return warm.together(self.folder, processes, "run", "tiny.toml", *arguments)

    @contextlib.contextmanager
    def begun(self, *arguments: str, step: int = 1, command: str = "run") -> Iterator[subprocess.Popen[str]]:
        """The same, left to itself once `step` is in the log; killed at the end if it is alive then."""
        words = self.words(*arguments, command=command)
        process = subprocess.Popen(words, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            deadline = time.monotonic() + 120
            while not any(row["step"] >= step for row in self.metrics()):
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline, "no step for two minutes"
                time.sleep(0.01)
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()

    def words(self, *arguments: str, command: str = "run") -> list[str]:
        return [sys.executable, "-m", "bigrun", command, "tiny.toml", *arguments]

    def metrics(self) -> list[dict[str, Any]]:
        """The complete rows of the log, none before there is one."""
        return read_lines(self.run / "metrics.jsonl")

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_lines(self.run / "events.jsonl") if event["kind"] == kind]


def read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]
