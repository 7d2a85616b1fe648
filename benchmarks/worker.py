"""The parent's side of a process that takes steps on demand (turns.py)."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

__all__ = ["Answer", "Worker", "WorkerError"]


class WorkerError(RuntimeError):
    """The process ended where an answer was expected; the message has the end of what it said."""


@attrs.frozen
class Answer:
    """What the steps of one order took."""

    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    torch_peak_bytes: int | None = None
    peak_gpu_bytes: int | None = None


class Worker:
    """A started process; `ready` is its first line."""

    def __init__(
        self, name: str, words: Sequence[str], environment: Mapping[str, str], limit_seconds: float | None = None
    ) -> None:
        """Waits until the worker is ready; one that lives longer than the limit is killed.

        Raises:
            WorkerError: it ended before it was.
        """
        self.name = name
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - until close
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **environment},
        )
        self._limit = threading.Timer(limit_seconds or 0.0, self._process.kill)
        self._limit.daemon = True
        if limit_seconds is not None:
            self._limit.start()
        try:
            self.ready = self._answer()
        except WorkerError:
            self.close()
            raise

    def order(self, steps: int, **more: bool) -> Answer:
        """Take steps; see `Turns` for what else can be asked.

        Raises:
            WorkerError: the process died.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"steps": steps, **more}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # why it died is said below
        return Answer(**self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            raise WorkerError(f"{self.name} ended with exit code {code}:\n{self._errors.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Let the process end."""
        self._limit.cancel()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()
