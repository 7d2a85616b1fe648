"""The sentinel of this process: started, told that all is well, ended."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
from pathlib import Path

from bigrun_watchdog import sentinel

__all__ = ["Outside"]

DUMP_SIGNAL = signal.SIGRTMIN + 3
"""No program means anything by it. Its handler is C code, which needs no interpreter."""
END_SECONDS = 5.0


class Outside:
    """Starts the sentinel. What it finds comes to `path`, which is empty as long as it finds nothing."""

    def __init__(self, path: Path, limit_seconds: float, tick_seconds: float) -> None:
        self.path = path
        self._file = path.open("ab")
        faulthandler.register(DUMP_SIGNAL, self._file, all_threads=True)
        numbers = [os.getpid(), limit_seconds, tick_seconds, int(DUMP_SIGNAL)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", sentinel.__file__, *map(str, numbers)],
            stdin=subprocess.PIPE,
            stdout=self._file,
            bufsize=0,
            start_new_session=True,  # Ctrl-C and Ctrl-Z of a terminal are not for it
        )
        assert self._process.stdin is not None
        self._input = self._process.stdin
        os.set_blocking(self._input.fileno(), False)

    def beat(self) -> None:
        """Say that the interpreter runs. A sentinel that was killed or ended is not missed; one that sleeps reads
        later."""
        with contextlib.suppress(OSError, ValueError):
            self._input.write(b".")

    def close(self) -> None:
        """End the sentinel, and remove what it has not written."""
        self._input.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        faulthandler.unregister(DUMP_SIGNAL)
        self._file.close()
        with contextlib.suppress(OSError):
            if self.path.stat().st_size == 0:
                self.path.unlink()
