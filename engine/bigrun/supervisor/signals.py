"""The signals that a supervisor takes one by one, instead of being interrupted by them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from bigrun.process import STOP_SIGNALS

__all__ = ["BLOCKED", "blocked", "next_signal"]

BLOCKED = (*STOP_SIGNALS, signal.SIGCHLD)


@contextmanager
def blocked() -> Iterator[None]:
    """Keep the signals that `next_signal` takes; a child inherits that, and lets them in itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def next_signal(seconds: float) -> tuple[signal.Signals | None, bool]:
    """The next stop signal within so many seconds, and whether the child has not got it as well.

    The death of a child ends the wait. A signal of the kernel is the terminal's, which sends it to the whole foreground
    process group (`sigaction(2)`: si_code > 0).
    """
    found = signal.sigtimedwait(BLOCKED, seconds)
    if found is None or found.si_signo == signal.SIGCHLD:
        return None, False
    return signal.Signals(found.si_signo), found.si_code <= 0
