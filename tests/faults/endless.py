"""A training in a forked process that goes on until it is killed, and says what it has done."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from killing import PROCESSES, begin

from bigrun import hookimpl

__all__ = ["Diary", "begin_training", "train_for_ever", "wait_for"]

# Before anybody starts the server: a training in a process that has imported all of it begins at once.
PROCESSES.set_forkserver_preload(
    ["pytest", "torch", "torch._dynamo", "numpy.random", "safetensors.torch", "bigrun.checkpoint.store",
     "bigrun.testing.runner", "bigrun.loop", "bigrun.state", "bigrun.saver", "bigrun.checkpoint.staging",
     "bigrun.data.loader", "bigrun.data.views", "bigrun.objective.dino", "bigrun.weights.start", "bigrun.defaults"]
)  # fmt: skip

ENDLESS: Mapping[str, Any] = {
    "log_every_steps": 1, "checkpoint_every_steps": 1, "max_steps": 1_000_000, "background_checkpoints": True,
}  # fmt: skip


class Diary:
    """Writes down every step that is over and every checkpoint that was announced, a line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    @hookimpl
    def after_step(self, step: int) -> None:
        self._file.write(b"step %d\n" % step)

    @hookimpl
    def on_checkpoint(self, step: int) -> None:
        self._file.write(b"saved %d\n" % step)

    @staticmethod
    def last(path: Path, word: str) -> int:
        """The newest step of which it says so; 0 where there is none."""
        lines = path.read_text().splitlines() if path.exists() else []
        return next((int(line.split()[1]) for line in reversed(lines) if line.startswith(word)), 0)


def train_for_ever(directory: Path, log: Path, environment: Mapping[str, str], run: Mapping[str, Any]) -> None:
    import torch

    from bigrun.testing.runner import Runner

    os.environ.update(environment)
    torch.set_num_threads(1)
    Runner(directory.parent).run(
        steps=1_000_000, directory=directory, run={**ENDLESS, **run}, companions=[Diary(log)],
        objective={"teacher_temperature_warmup_steps": 0},
    ).assert_finished()  # fmt: skip


def begin_training(
    directory: Path, log: Path, environment: Mapping[str, str] | None = None, **run: Any
) -> ForkServerProcess:
    """Train in a process of its own; options of [run] as keywords."""
    return begin(train_for_ever, directory, log, dict(environment or {}), run)


def wait_for(log: Path, word: str, beyond: int, process: ForkServerProcess) -> None:
    """Until the diary has a newer entry than that."""
    deadline = time.monotonic() + 60
    while Diary.last(log, word) <= beyond:
        assert process.is_alive(), "the training ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.002)
