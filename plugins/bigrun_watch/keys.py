"""Keys of a terminal, one at a time, while a picture is on it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from typing import Any, TextIO

__all__ = ["Keys"]

NAMES = {
    "\x1b[A": "up", "\x1b[B": "down", "\x1b[5~": "page-up", "\x1b[6~": "page-down", "\x1b[H": "home",
    "\x1bOA": "up", "\x1bOB": "down", "k": "up", "j": "down", " ": "page-down", "b": "page-up", "g": "home",
    "q": "leave", "Q": "leave", "\x03": "leave", "\x04": "leave",
}  # fmt: skip
MOST_BYTES = 1024


class Keys:
    """Reads keys of a terminal without waiting for a line. Of what is no terminal there are none."""

    def __init__(self, stream: TextIO) -> None:
        self._descriptor: int | None = None
        with contextlib.suppress(OSError, ValueError):  # closed, or not a file at all
            self._descriptor = stream.fileno() if stream.isatty() else None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """The terminal gives every key at once and shows none; as it was, afterwards. A request to end comes as
        KeyboardInterrupt, so that it is put back then, too."""
        import termios
        import tty

        before: list[Any] | None = None
        handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
        try:
            if self._descriptor is not None:
                before = termios.tcgetattr(self._descriptor)
                tty.setcbreak(self._descriptor, termios.TCSANOW)
            yield
        finally:
            if self._descriptor is not None and before is not None:
                with contextlib.suppress(termios.error):  # the terminal is gone
                    termios.tcsetattr(self._descriptor, termios.TCSANOW, before)
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def wait(self, seconds: float) -> list[str]:
        """The names of what was pressed, at once when something was; nothing after so many seconds."""
        if self._descriptor is None:
            time.sleep(seconds)
            return []
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return []
        try:
            data = os.read(self._descriptor, MOST_BYTES)
        except OSError:  # EIO: the terminal is gone
            data = b""
        if not data:
            return ["leave"]
        return named(data.decode("ascii", "replace"))


def interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def named(text: str) -> list[str]:
    """The keys in what a terminal has sent, without those that mean nothing."""
    found = []
    while text:
        known = next((keys for keys in sorted(NAMES, key=len, reverse=True) if text.startswith(keys)), None)
        if known is not None:
            found.append(NAMES[known])
        text = text[len(known or text[0]) :]
    return found
