"""`bigrun` as a user types it, inside this process: a fraction of a second instead of three."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from training import Training

from bigrun.checkpoint import disk, manifest
from bigrun.checkpoint.layout import CONFIG, MANIFEST, step_name
from bigrun.cli import main

__all__ = ["Done", "Typed", "forge", "held", "train_once"]


@attrs.frozen
class Done:
    """What a command said, on both streams, and its exit code."""

    code: int
    said: str


class Typed(Training):
    """The folder of a `Training`, entered."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **tables: dict[str, Any]) -> None:
        super().__init__(folder, **tables)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", list(sys.path))  # the command line adds the folder

    def type(self, *words: str | Path) -> Done:
        """`bigrun WORDS`; anything but an exit code is a traceback, and fails the test."""
        result = CliRunner().invoke(main, list(map(str, words)))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.output)

    def train(self, *words: str | Path) -> Done:
        return self.type("run", "tiny.toml", *words)

    def checkpoint(self, step: int) -> Path:
        return self.run / "checkpoints" / step_name(step)


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Another process has the lock of this run directory."""
    script = f"""
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from bigrun.lock import RunLock
lock = RunLock(Path({str(directory)!r}))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.communicate("")


def forge(checkpoint: Path) -> None:
    """Make the manifest fit whatever lies in the directory: who can write there can do that."""
    step = manifest.read(checkpoint).step
    (checkpoint / MANIFEST).unlink()
    files = {
        path.name: disk.FileRecord(path.stat().st_size, disk.hash_file(path)) for path in sorted(checkpoint.iterdir())
    }
    manifest.write(checkpoint, manifest.Manifest(step, files[CONFIG].sha256, files, "2026-01-01T00:00:00+00:00"))


def train_once(paths: pytest.TempPathFactory, steps: int) -> Path:
    """A folder with a run of so many steps in it, for tests to copy."""
    folder = paths.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        done = Typed(folder, patch, run={"max_steps": steps}).train()
    assert done.code == 0, done.said
    return folder
