"""Text that may come from anywhere, a file's name above all, on its way to a terminal."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import TextIO

import click

from bigrun.redaction import Redactor

__all__ = ["give_up_output", "place_of_errors", "printable", "say", "tell"]

# What a terminal obeys instead of showing it (all of C0 but tab and newline, DEL, C1), what reverses the order of what
# is shown, and halves of characters, which no encoding has: a name that is not UTF-8 has them.
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""The text with everything that a terminal would obey written out: `\x1b` for an escape."""
    return UNSAFE.sub(lambda match: written_out(ord(match[0])), text)


def written_out(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def say(line: str, *, error: bool = False) -> None:
    """Print a line of the command line: without secrets, and nothing that a terminal would obey. What the disk behind
    a redirection refuses is not said: no run ends for that."""
    with contextlib.suppress(OSError):
        click.echo(printable(Redactor.of_environment().text(line)), err=error)


def tell(line: str, file: TextIO) -> None:
    """Print a line to `file` now, if that takes it."""
    with contextlib.suppress(OSError):
        print(line, file=file, flush=True)


def place_of_errors() -> str:
    """Where standard error goes: two processes of a machine with the same place are read by the same eyes."""
    try:
        file = os.fstat(2)
    except OSError:  # it is closed
        return "nowhere"
    return f"{file.st_dev}:{file.st_ino}"


def give_up_output() -> None:
    """Let what could not be printed go, for Python would end with exit code 120 for it; to be called at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
