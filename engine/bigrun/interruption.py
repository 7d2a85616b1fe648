"""A command that ends where it is when it is asked to stop, and clears away what it has begun."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["Interrupted", "interrupting"]

SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end; no handler of errors takes it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def name(self) -> str:
        """SIGTERM."""
        return signal.Signals(self.number).name

    @property
    def exit_code(self) -> int:
        """As that of a process that the signal has ended."""
        return 128 + self.number


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Raise `Interrupted` where the main thread is when a signal asks to stop; a second one, while what was begun is
    being cleared away, is not heard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _frame: Any) -> None:
        for heard in before:
            signal.signal(heard, signal.SIG_IGN)
        raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
