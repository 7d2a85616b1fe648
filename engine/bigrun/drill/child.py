"""A run in a process of its own, to be harmed."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tomli_w

from bigrun.checkpoint.store import CheckpointStore
from bigrun.drill.faults import progress_path
from bigrun.errors import BigrunError

__all__ = ["Child", "DrillError", "temporaries"]

PATIENCE_SECONDS = 1800.0
"""A start may compile kernels; a hang ends the drill."""


class DrillError(BigrunError):
    """A run of the drill did not do what it should; `code` is its exit code, where it has ended."""

    code: int | None = None


class Child:
    """One run directory and the process that trains in it, now and then."""

    def __init__(self, directory: Path, tables: dict[str, Any]) -> None:
        self.directory = directory
        self.tables = tables
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None

    # -- what it has done -------------------------------------------------------------------------------------

    @property
    def store(self) -> CheckpointStore:
        return CheckpointStore(self.directory / "checkpoints")

    @property
    def last_path(self) -> Path:
        """The newest checkpoint."""
        return self.store.path(self.store.steps()[-1])

    def progress(self) -> list[dict[str, Any]]:
        """What the run has said, over all its starts."""
        path = progress_path(self.directory)
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def steps_taken(self) -> list[int]:
        """Every step that was taken, in order; one that was taken twice is there twice."""
        return [row["step"] for row in self.progress() if "step" in row]

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def newest(self) -> int:
        """The step of the newest verified checkpoint; 0 when there is none."""
        return (self.store.verified_steps() or [0])[-1]

    def events(self, kind: str) -> list[str]:
        """The messages of all events of a kind."""
        return [row["message"] for row in self.progress() if row.get("event") == kind]

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    # -- what is done to it -----------------------------------------------------------------------------------

    def start(self, *, file_limit_bytes: int | None = None, **overrides: dict[str, Any]) -> None:
        """Start or continue the run; `overrides` are options by table.

        Args:
            file_limit_bytes: no file may grow beyond it, as if the disk were full there; see `lift_limit`.
        """
        tables = {**self.tables, **{name: self.tables.get(name, {}) | table for name, table in overrides.items()}}
        preset = self.directory.with_suffix(".toml")
        preset.parent.mkdir(parents=True, exist_ok=True)
        preset.touch(mode=0o600)  # options of plugins may be secrets
        preset.write_text(tomli_w.dumps(tables), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "bigrun", "run", str(preset), "--run-dir", str(self.directory)]
        self.starts += 1
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if file_limit_bytes is not None:
            self._limit(file_limit_bytes)

    def lift_limit(self) -> None:
        """Give the disk room again."""
        self._limit(resource.RLIM_INFINITY)

    def wait_for(self, condition: Any, what: str) -> None:
        """Wait until `condition()` holds while the process lives.

        Raises:
            DrillError: it ended before, or nothing happened for half an hour.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if self.process.poll() is not None and not condition():
                raise DrillError(f"the run ended before {what}:\n{self._tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise DrillError(f"{what}: did not happen in {PATIENCE_SECONDS:.0f} s:\n{self._tail()}")
            time.sleep(0.002)

    def finish(self, *expected: int) -> int:
        """Wait for the end; returns the exit code.

        Raises:
            DrillError: it is none of `expected` (3, a stop on request, when none is given).
        """
        try:
            code = self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DrillError(f"the run did not end in {PATIENCE_SECONDS:.0f} s:\n{self._tail()}") from None
        if code not in (expected or (3,)):
            error = DrillError(f"the run ended with exit code {code}:\n{self._tail()}")
            error.code = code
            raise error
        return code

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.process.wait()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("not started")
        return self._process

    @property
    def _log(self) -> Path:
        return self.directory.with_suffix(".log")

    def _limit(self, size: int) -> None:
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size, hard))

    def _tail(self) -> str:
        return "\n".join(f"  | {line}" for line in self.output().splitlines()[-15:])


def temporaries(directory: Path) -> set[str]:
    """The names of checkpoints that are being written, or were when their process was killed."""
    try:
        return {name for name in os.listdir(directory / "checkpoints") if name.startswith(".tmp-")}  # noqa: PTH208 - speed
    except FileNotFoundError:
        return set()
