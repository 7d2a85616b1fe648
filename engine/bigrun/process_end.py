"""How the process of a command ends."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable

__all__ = ["as_process", "end_without_finalisation"]

_is_abrupt = threading.Event()


def end_without_finalisation() -> None:
    """Let this process, if it is that of a command (`as_process`), end after all that is registered with `atexit`, and
    without Python's finalisation. To be called by whoever starts native threads that outlive what they work for.

    A thread of torch's distributed library that needs Python while it is finalised ends the process with SIGABRT,
    "terminate called without an active exception", in place of its exit code. gloo's threads need it for the last
    tensors of an exchange, after whoever waited for it has gone on; they are joined only when nobody holds the group,
    and a network, an objective or a traceback does. Of 120 processes with starved threads that ended behind an
    exchange 22 were aborted (torch 2.13).
    """
    _is_abrupt.set()


def as_process(command: Callable[[], object]) -> None:
    """Call a command, which ends with `SystemExit`, with another exception, or well: this process ends as it does."""
    code = 1  # of an exception, which Python prints

    def end() -> None:
        if not _is_abrupt.is_set():
            return
        try:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):  # full, or closed
                    stream.flush()
            ctypes.CDLL(None).fflush(None)  # what native libraries have printed
        finally:  # also of Ctrl-C, while nobody reads what is flushed
            os._exit(code)

    atexit.register(end)  # before all others, and so called after them
    try:
        command()
        code = 0
    except SystemExit as error:
        code = code_of(error)
        raise
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
        raise


def code_of(error: SystemExit) -> int:
    """The exit code that a parent sees; that of a message, which Python prints, is 1."""
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1
