"""A child process as its parent sees it: whatever happens to it is an answer. Torch-free."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import attrs

from bigrun.devices.text import text_of
from bigrun.tuner.trial import Status

__all__ = ["LOOK_SECONDS", "Answer", "Child", "ask", "end"]

LOOK_SECONDS = 0.2
"""A process that has died may have left the pipe to one of its own."""


@attrs.frozen
class Answer:
    """How the process has ended, and what it said."""

    status: Status
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    """Of a process that ended well."""
    message: str = ""
    exit_code: int = 0
    """That an error asks for."""
    is_of_another: bool = False
    """Whether it has ended because another process of its run has: its message tells of that one at best."""


class Child:
    """A process that does what it is ordered, and what it has said. It is gone at last when its parent is, however
    that ends (`bigrun.tuner.tether`)."""

    def __init__(self, order: Mapping[str, Any], module: str, environment: Mapping[str, str] | None = None) -> None:
        """
        Args:
            module: what the process is.
            environment: of it; that of this process if not given.
        """
        self.answer: Answer | None = None
        """Once it has given one, or has ended without."""
        self._pending = b""
        self._ended_before = ended_for_memory()
        with contextlib.ExitStack() as stack:
            self._output = stack.enter_context(tempfile.TemporaryFile())
            self._reading, theirs = os.pipe()
            stack.callback(os.close, self._reading)
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, str(theirs)],
                    stdin=subprocess.PIPE,
                    stdout=self._output,
                    stderr=self._output,
                    pass_fds=[theirs],
                    env=environment,
                    start_new_session=True,
                )
            finally:
                os.close(theirs)
            stack.callback(self._reap)
            say(self.process, json.dumps(order))
            self._kept = stack.pop_all()

    def fileno(self) -> int:
        """What `select` waits for: it has said something, or has ended."""
        return self._reading

    def heard(self) -> list[dict[str, Any]]:
        """What it has said since the last call, without its answer. Waits for nothing."""
        is_over = self.process.poll() is not None
        ready, _, _ = select.select([self], [], [], 0.0)
        piece = os.read(self._reading, 1 << 16) if ready else b""
        *whole, self._pending = (self._pending + piece).split(b"\n")
        said = []
        for line in map(json.loads, whole):
            if "answer" in line:
                self.answer = Answer("ok", line["answer"])
            elif "error" in line:
                self.answer = Answer(message=line["error"].pop("message"), **line["error"])
            else:
                said.append(line)
        if self.answer is None and not piece and (ready or is_over):
            self.answer = self._end()
        return said

    def _end(self) -> Answer:
        """Of one that has ended, and has not answered."""
        if self.process.wait() == -signal.SIGKILL and ended_for_memory() > self._ended_before:
            text = "the machine had no memory left: the kernel has ended it"
            return Answer("out-of-memory", message=text, exit_code=1)
        return Answer("crash", message=last_words(self.process, self._output), exit_code=1)

    def kill(self) -> None:
        """It and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """It is gone, and what was between it and this process."""
        self._kept.close()

    def _reap(self) -> None:
        self.kill()
        self.process.wait()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it has not read
            self.process.stdin.close()


def ask(
    order: Mapping[str, Any],
    limit_seconds: float,
    module: str = "bigrun.tuner.child",
    hear: Callable[[Mapping[str, Any]], None] = lambda line: None,
) -> Answer:
    """Have a new process do what is ordered; it and all that it has started are gone when this returns, or raises, or
    its process is killed.

    Args:
        module: what the process is.
        hear: told what it says before its answer.
    """
    deadline = time.monotonic() + limit_seconds
    child = Child(order, module)
    try:
        while child.answer is None:
            select.select([child], [], [], LOOK_SECONDS)
            for line in child.heard():
                hear(line)
            if child.answer is None and time.monotonic() > deadline:
                text = f"not finished after {limit_seconds:g} s, the limit of a trial (--trial-seconds)"
                return Answer("timeout", message=text, exit_code=1)
        return child.answer
    finally:
        end([child])


def end(children: Iterable[Child]) -> None:
    """Kill them and what they have started; nothing of them is to remain."""
    ending = list(children)
    for child in ending:
        child.kill()
    for child in ending:
        child.close()


def say(process: subprocess.Popen[bytes], order: str) -> None:
    """Its standard input stays open: it ends when that is closed."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended already; how is seen later
        process.stdin.write(order.encode() + b"\n")
        process.stdin.flush()


def ended_for_memory(file: Path = Path("/proc/vmstat")) -> int:
    """Processes that the kernel has ended since its start, for want of memory; 0 where it does not say."""
    counts = dict(line.split(" ", 1) for line in text_of(file).splitlines() if " " in line)
    return int(counts.get("oom_kill", 0))


def last_words(process: subprocess.Popen[bytes], output: IO[bytes]) -> str:
    """How it ended, and the last line that it printed."""
    code = process.wait()
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    if code == -signal.SIGKILL:
        how += ", which the kernel does when memory runs out"
    output.seek(0)
    said = output.read().decode(errors="replace").strip().splitlines()
    return f"{how}: {said[-1]}" if said else how
