"""A supervised process as its supervisor sees it: started, told to stop, ended. Torch-free."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

import attrs
import click

from bigrun.events import utc_now

__all__ = ["Child", "Start"]

KEPT_BYTES = 16 * 1024
KEPT_LINES = 20
PASSING_SECONDS = 2.0
"""A process that decodes images may hold standard error open for a moment longer than the one that died."""


@attrs.frozen
class Start:
    """One start of the run, and how it ended."""

    number: int
    """From 1."""
    began_utc: str
    seconds: float
    returncode: int
    """The exit code, or minus the number of the signal that killed it."""
    step: int | None
    """Steps taken when it ended; None if it ended before it was built."""
    backend: str | None
    """What it computed on, as in `bigrun.machine`; None if it ended before it was built."""
    newest: int | None
    """Step of the newest checkpoint then, as far as the disk has told."""
    last_lines: tuple[str, ...]
    """Of its standard error."""


class Child:
    """A running start. Standard output and input are the supervisor's own, so that a terminal stays a terminal;
    standard error is passed through, and its last lines are kept."""

    def __init__(self, number: int, before: str, backend: str | None, arguments: Sequence[str]) -> None:
        self.number = number
        self._began, self.began_utc = time.monotonic(), utc_now()
        self._step_file = os.memfd_create("bigrun-step")
        words = [str(number), str(self._step_file), str(os.getpid()), before, backend or "", *arguments]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bigrun.supervisor.attempt", *words],
            stderr=subprocess.PIPE,
            pass_fds=[self._step_file],
        )
        assert self._process.stderr is not None
        self.pid = self._process.pid
        self._tail = b""
        self._passing = threading.Thread(target=self._pass_on, args=(self._process.stderr,), daemon=True)
        self._passing.start()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended."""
        self._process.send_signal(number)

    def result(self, newest: int | None) -> Start:
        """How it ended; waits for that."""
        returncode = self._process.wait()
        self._passing.join(PASSING_SECONDS)
        told = os.pread(self._step_file, 64, 0)
        os.close(self._step_file)
        lines = self._tail.decode(errors="replace").splitlines()[-KEPT_LINES:]
        seconds = time.monotonic() - self._began
        step, backend = (int.from_bytes(told[:8], "little"), told[8:].decode()) if told else (None, None)
        return Start(self.number, self.began_utc, seconds, returncode, step, backend, newest, tuple(lines))

    def _pass_on(self, source: IO[bytes]) -> None:
        with source:
            while chunk := os.read(source.fileno(), 65536):
                self._tail = (self._tail + chunk)[-KEPT_BYTES:]
                with contextlib.suppress(OSError):  # nobody reads ours any more, which the child must not feel
                    click.echo(chunk, nl=False, err=True)
