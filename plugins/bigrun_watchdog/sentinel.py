"""Looks at a run from outside: a process whose interpreter stands still cannot look at itself.

A program of its own, `python sentinel.py PID LIMIT_SECONDS TICK_SECONDS SIGNAL`, with nothing but the standard library:
10 MB. The run writes a byte to its standard input at each tick; it ends when that is closed, by whatever ended the run.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

__all__ = ["Patience"]

DUMP_SECONDS = 2.0


class Patience:
    """For how long something has stood still, by the ticks of the one who looks.

    A tick counts for no more than two: a process that was stopped (SIGSTOP, a frozen container) or a machine that slept
    has not waited in that time.
    """

    def __init__(self, tick_seconds: float) -> None:
        self.seconds = 0.0
        self._most = 2 * tick_seconds
        self._last = time.monotonic()

    def tick(self, *, moved: bool) -> float:
        """Look once more; returns the seconds since something moved."""
        now = time.monotonic()
        self.seconds = 0.0 if moved else self.seconds + min(now - self._last, self._most)
        self._last = now
        return self.seconds


def watch(pid: int, limit_seconds: float, tick_seconds: float, dump_signal: int) -> None:
    """Until the process ends, or was silent for so long: it writes its stacks then, and is killed if it does nothing
    else any more."""
    patience = Patience(tick_seconds)
    while True:
        said = hear(tick_seconds)
        if said == b"":
            return
        patience.tick(moved=said is not None or is_stopped(pid))
        if patience.seconds > limit_seconds:
            what = (
                f"watchdog: process {pid} ran no Python for {patience.seconds:.0f} s: native code keeps the interpreter"
            )
            print(f"{what}. The stacks of all threads:\n", flush=True)
            os.kill(pid, dump_signal)
            if hear(DUMP_SECONDS) is None:
                print(f"{what}. It is killed; the same command continues from the newest checkpoint", file=sys.stderr)
                os.kill(pid, signal.SIGKILL)
                return
            print("\nAfter that it ran on.", flush=True)
            patience.tick(moved=True)


def hear(seconds: float) -> bytes | None:
    """What the process says within so many seconds; nothing (`b""`) when it has ended, None when it is silent."""
    return os.read(0, 65536) if select.select([0], [], [], seconds)[0] else None


def is_stopped(pid: int) -> bool:
    """Whether somebody has stopped the process, or looks into it with a debugger."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    return False


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # who stops the run ends this, too, in the end
    with contextlib.suppress(ProcessLookupError):
        watch(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
