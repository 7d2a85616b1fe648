"""The real `bigrun`, in a directory of the check, and the records of its runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import tomli_w

if TYPE_CHECKING:
    from bigrun.config import Document
    from gpu_checks.subject import Subject

__all__ = ["RealRun", "bigrun", "real_run"]


def bigrun(
    subject: Subject, *words: str, without: Sequence[str] = (), more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line.

    Args:
        without: variables that it does not inherit.
        more: variables that it gets.
    """
    environment = {name: value for name, value in os.environ.items() if name not in without}
    return subprocess.run(
        [sys.executable, "-m", "bigrun", *words],
        cwd=subject.directory,
        env=environment | dict(more or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@attrs.frozen
class RealRun:
    """A run that has ended."""

    exit_code: int
    directory: Path
    said: str
    """The end of its standard error."""

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Rows of a file of JSON lines in the run directory."""
        path = self.directory / name
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.lines("events.jsonl") if event["kind"] == kind]

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.lines("metrics.jsonl")]

    @property
    def starts(self) -> list[dict[str, Any]]:
        """What is recorded of each start."""
        path = self.directory / "provenance.json"
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["starts"] if path.exists() else []
        return found


def real_run(
    subject: Subject,
    name: str,
    document: Document,
    *words: str,
    without: Sequence[str] = (),
    more: Mapping[str, str] | None = None,
) -> RealRun:
    """`bigrun run` of a preset file, on images of the check's own; see `bigrun`."""
    from gpu_checks.recipe import write_images

    images = subject.directory / "images"
    if not images.exists():
        write_images(images, 16 if subject.tiny else 64, 48 if subject.tiny else 256)
    preset = subject.directory / f"{name}.toml"
    tables = {**document.tables, "data": {**document.tables["data"], "path": str(images)}}
    preset.write_text(tomli_w.dumps(tables), encoding="utf-8")
    directory = subject.directory / name
    done = bigrun(subject, "run", str(preset), "--run-dir", str(directory), *words, without=without, more=more)
    return RealRun(done.returncode, directory, done.stderr.strip()[-600:])
