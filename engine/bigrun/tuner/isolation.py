"""A child process as `bigrun tune` sees it: whatever happens to it is an answer. Torch-free."""

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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import attrs

from bigrun.devices.text import text_of
from bigrun.tuner.trial import Status

__all__ = ["Answer", "ask"]

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
    reading, theirs = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, reading)
        output = stack.enter_context(tempfile.TemporaryFile())
        ended_before = ended_for_memory()
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[theirs],
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        stack.callback(end, process)
        say(process, json.dumps(order))
        try:
            for line in lines(reading, process, limit_seconds):
                if "answer" in line:
                    return Answer("ok", line["answer"])
                if "error" in line:
                    return Answer(message=line["error"].pop("message"), **line["error"])
                hear(line)
        except TimeoutError as error:
            return Answer("timeout", message=str(error), exit_code=1)
        if process.wait() == -signal.SIGKILL and ended_for_memory() > ended_before:
            return Answer(
                "out-of-memory", message="the machine had no memory left: the kernel has ended it", exit_code=1
            )
        return Answer("crash", message=last_words(process, output), exit_code=1)


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


def lines(pipe: int, process: subprocess.Popen[bytes], limit_seconds: float) -> Iterator[dict[str, Any]]:
    """What it says, until it ends.

    Raises:
        TimeoutError: it takes longer than the limit.
    """
    pending, deadline = b"", time.monotonic() + limit_seconds
    while True:
        is_over = process.poll() is not None
        ready, _, _ = select.select([pipe], [], [], 0.0 if is_over else LOOK_SECONDS)
        piece = os.read(pipe, 1 << 16) if ready else b""
        *whole, pending = (pending + piece).split(b"\n")
        yield from map(json.loads, whole)
        if not piece and (ready or is_over):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"not finished after {limit_seconds:g} s, the limit of a trial (--trial-seconds)")


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill it and what it has started; nothing of it is to remain."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # what it has not read
        process.stdin.close()


def last_words(process: subprocess.Popen[bytes], output: IO[bytes]) -> str:
    """How it ended, and the last line that it printed."""
    code = process.wait()
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    if code == -signal.SIGKILL:
        how += ", which the kernel does when memory runs out"
    output.seek(0)
    said = output.read().decode(errors="replace").strip().splitlines()
    return f"{how}: {said[-1]}" if said else how
