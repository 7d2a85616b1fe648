"""The library's side: the loop of a process that writes down what it is told."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from bigrun.process import STOP_SIGNALS

__all__ = ["Announce", "Writer", "serve"]

LOCK = "writer.lock"
ORPHAN_SECONDS = 60.0
"""After the run has died without a word, so much time is left to write down what it has said."""
FIRST_TO_END = "1000"
"""To the kernel, when the machine has no memory left: this process, and not the run."""

Announce = Callable[[str, str], None]
"""(message, level) of an event of the run."""


class Writer(Protocol):
    """What is told to a library. Whatever a method raises ends the process, and the run hears of it."""

    def metrics(self, step: int, values: Mapping[str, float], time_seconds: float) -> None:
        """A row of metrics."""

    def event(self, step: int, kind: str, level: str, message: str, time_utc: str) -> None:
        """An event of the run."""

    def picture(self, step: int, name: str, path: str) -> None:
        """The newest picture of a series."""

    def checkpoint(self, step: int, path: str) -> None:
        """A checkpoint is on the disk; where, not what."""

    def finish(self, status: str) -> None:
        """The process ends; finished, stopped, failed, rolled-back, or died when the run did not say how it ended."""


def serve(open_writer: Callable[[Mapping[str, Any], Announce], Writer]) -> int:
    """Write what comes on standard input until it ends; returns the exit code.

    Two processes never write into one folder: a run that is continued waits here, not in training, until the process
    of its last start has ended. What the library prints goes to standard error.
    """
    for number in STOP_SIGNALS:  # a stop is the run's decision
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_END)
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        try:
            settings = json.loads(sys.stdin.readline())
            with Path(LOCK).open("w") as lock:
                if wait_for(lock, run=settings.pop("run")):
                    write_all(open_writer, settings, answers)
        except Exception as error:
            traceback.print_exc()
            answer(answers, error=f"{type(error).__name__}: {error}")
            return 1
    return 0


def wait_for(lock: TextIO, run: int) -> bool:
    """Wait until no other process writes here; False when the run has died meanwhile, and its next start has begun to
    write: that takes these steps again.

    Args:
        run: the process that started this one.
    """
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if os.getppid() != run:
                return False
            time.sleep(0.1)


def write_all(
    open_writer: Callable[[Mapping[str, Any], Announce], Writer], settings: Mapping[str, Any], answers: TextIO
) -> None:
    """Hand each line to the writer, and acknowledge it."""

    def announce(message: str, level: str) -> None:
        answer(answers, event={"message": message, "level": level})

    writer = open_writer(settings, announce)
    answer(answers, done=1)
    for line in sys.stdin:
        what = json.loads(line)
        order = what.pop("order")
        getattr(writer, order)(**what)
        if order == "finish":
            answer(answers, done=1)
            return
        answer(answers, done=1)
    limit = threading.Timer(ORPHAN_SECONDS, os._exit, (1,))
    limit.daemon = True
    limit.start()
    writer.finish("died")
    limit.cancel()


def answer(answers: TextIO, **what: Any) -> None:
    """Say something to the run, which may be gone."""
    with contextlib.suppress(BrokenPipeError):
        answers.write(json.dumps(what) + "\n")
