"""The run's side: messages go out without ever waiting, and what the other process says comes back."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bigrun.process import STOP_SIGNALS
from bigrun.scribe.log import LOG, last_line, open_log, shorten_log

__all__ = ["Scribe", "ScribeError"]

KEPT = 10_000
"""Messages that wait, at most; some 20 MB of metrics."""


class ScribeError(RuntimeError):
    """The other process has failed."""


class Scribe:
    """Starts `python -m MODULE`, which calls `bigrun.scribe.child.serve`, and tells it what to write.

    A process, and not a thread: a library that hangs can be ended, one that crashes takes nothing with it, and its
    environment, its exit handlers and its memory are not the run's. Messages that the process has not taken wait here;
    when too many do, the oldest are lost, and counted.
    """

    def __init__(self, module: str, settings: Mapping[str, Any], environment: Mapping[str, str], folder: Path) -> None:
        """
        Args:
            settings: JSON, for the module alone; it goes through a pipe, so that no list of processes shows it.
            folder: where the process lives, and where its `LOG` is.
        """
        self._log = folder / LOG
        self._waiting: deque[bytes] = deque()
        self._current = memoryview(b"")
        self._told: deque[float] = deque()
        """When what is not acknowledged was told, in seconds of the monotonic clock."""
        self._heard = b""
        self.fault: str | None = None
        """Why it has not written everything, once that is known."""
        self.lost = 0
        """Messages that were too many to keep."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # until it ignores them
        try:
            with os.fdopen(open_log(self._log), "ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=folder,
                    env=dict(environment),
                    start_new_session=True,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._in.fileno(), False)
        os.set_blocking(self._out.fileno(), False)
        self.tell("open", run=os.getpid(), **settings)

    @property
    def behind_seconds(self) -> float:
        """How long the oldest message that is not written down has waited; 0 when all are."""
        return time.monotonic() - self._told[0] if self._told else 0.0

    @property
    def unwritten(self) -> int:
        """Messages that were told and, as far as is known, not written down."""
        return len(self._told)

    def tell(self, order: str, **what: Any) -> None:
        """Pass a message on, or keep it until there is room. `what` is JSON."""
        self._waiting.append(json.dumps({"order": order, **what}, default=str).encode() + b"\n")
        self._told.append(time.monotonic())
        if len(self._waiting) > KEPT:
            self._waiting.popleft()
            self._told.popleft()
            self.lost += 1
        self._push()

    def hear(self) -> list[dict[str, Any]]:
        """What the process has to say since the last call: `message`, `level` of events.

        Raises:
            ScribeError: it has failed.
        """
        self._push()
        said = self._listen()
        shorten_log(self._log)
        self._find_fault()
        if self.fault is not None:
            raise ScribeError(self.fault)
        return said

    def finish(self, status: str, seconds: float) -> list[dict[str, Any]]:
        """Have everything written and the process end; one that does not in time is killed. Returns as `hear`.

        Args:
            status: of the run: finished, stopped, failed or rolled-back.
        """
        if self._process.poll() is None:
            self.tell("finish", status=status)
        end, said = time.monotonic() + seconds, []
        while self._process.poll() is None and (left := end - time.monotonic()) > 0:
            self._push()
            writable = [self._in] if self._waiting or self._current else []
            select.select([self._out], writable, [], min(left, 0.05))
            said += self._listen()
        if self._process.poll() is None:
            self.fault = f"it has not come to an end within {seconds:g} s"
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        said += self._listen()
        self._find_fault()
        for file in (self._in, self._out):
            with contextlib.suppress(OSError):
                file.close()
        return said

    def _find_fault(self) -> None:
        if self.fault is None and self._process.poll():  # 0 is how it ends when it was told to
            self.fault = f"its process ended with exit code {self._process.returncode}; it said: {last_line(self._log)}"

    def _push(self) -> None:
        """Write what the pipe takes. An end that is closed is no error here: `hear` finds out why."""
        try:
            while self._current or self._waiting:
                self._current = self._current or memoryview(self._waiting.popleft())
                self._current = self._current[os.write(self._in.fileno(), self._current) :]
        except (BlockingIOError, BrokenPipeError, ValueError):
            return

    def _listen(self) -> list[dict[str, Any]]:
        with contextlib.suppress(BlockingIOError, ValueError):
            while data := os.read(self._out.fileno(), 1 << 16):
                self._heard += data
        *lines, self._heard = self._heard.split(b"\n")
        said = []
        for answer in map(json.loads, lines):
            if "error" in answer:
                self.fault = str(answer["error"])
            elif "event" in answer:
                said.append(answer["event"])
            elif self._told:
                self._told.popleft()
        return said
