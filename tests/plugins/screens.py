"""A command in a real pseudo-terminal, and what a person would see there."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyte

__all__ = ["Screen"]

BEGIN = """
import fcntl, runpy, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.argv = ["bigrun", *sys.argv[1:]]
runpy.run_module("bigrun", run_name="__main__")
"""
"""Takes the terminal as a shell's child has it: Ctrl-C becomes a signal."""


class Screen:
    """`bigrun ...` in a terminal; use as a context, which ends it."""

    def __init__(self, folder: Path, *arguments: str, columns: int, rows: int, **environment: str) -> None:
        self._master, slave = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(slave)
        known = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", BEGIN, *arguments], cwd=folder, start_new_session=True,
            env=known | {"TERM": "xterm-256color", "LANG": "C.UTF-8", **environment},
            stdin=slave, stdout=slave, stderr=slave,
        )  # fmt: skip
        self._slave = slave
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if hasattr(self, "_screen"):
            self._screen.resize(rows, columns)

    @property
    def lines(self) -> list[str]:
        """What stands there now."""
        return list(self._screen.display)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def modes(self) -> list[Any]:
        """Of the terminal: echo, lines, signals."""
        return termios.tcgetattr(self._slave)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def pump(self, seconds: float = 0.05) -> None:
        """Take what the command has written."""
        while select.select([self._master], [], [], seconds)[0]:
            data = os.read(self._master, 65_536)
            self.raw += data
            self._stream.feed(data)
            seconds = 0.0

    def wait_for(self, wanted: str | Callable[[], bool], seconds: float = 60) -> None:
        """Until a text stands there, or something is so."""
        deadline = time.monotonic() + seconds
        while not (wanted in self.text if isinstance(wanted, str) else wanted()):
            assert time.monotonic() < deadline, f"not seen: {wanted}\n{self.text}"
            self.pump()

    def end(self, seconds: float = 30) -> int:
        """The exit code, once it has ended by itself."""
        self.wait_for(lambda: self.process.poll() is not None, seconds)
        self.pump()
        return self.process.returncode
