"""A command that ends where it is when it is asked to stop, and clears away what it has begun."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["Interrupted", "conclude", "interrupting"]

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


class Interrupt:
    """The handler of signals that raises."""

    def __init__(self) -> None:
        self.before = {n: h for n in SIGNALS if (h := signal.getsignal(n)) is not signal.SIG_IGN}

    def __call__(self, number: int, _frame: Any) -> None:
        self.silence()
        raise Interrupted(number)

    def silence(self) -> None:
        """No signal is heard any more."""
        for heard in self.before:
            signal.signal(heard, signal.SIG_IGN)


def conclude() -> None:
    """What follows is short and is done whole: no signal raises `Interrupted` any more until the end of `interrupting`.
    Outside of that nothing happens."""
    handlers = [signal.getsignal(number) for number in SIGNALS]
    for handler in handlers:
        if isinstance(handler, Interrupt) and threading.current_thread() is threading.main_thread():
            handler.silence()


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Raise `Interrupted` where the main thread is when a signal asks to stop; a second one, while what was begun is
    being cleared away, is not heard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    interrupt = Interrupt()
    for number in interrupt.before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in interrupt.before.items():
            signal.signal(number, handler)
