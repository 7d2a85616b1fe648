"""The page of a run that trains, drawn by a process of its own.

A thread would not do: while it computes in Python, each operation of the training that comes back from torch waits up
to 5 ms for the interpreter's lock, and a page of a long run takes seconds.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["Drawing"]

NICE = 19
FIRST_TO_END = "1000"
"""To the kernel, when the machine has no memory left: this process, and not the run."""


class Drawing:
    """A process that draws the page of a run directory, at the lowest priority."""

    def __init__(self, directory: Path, page: Path) -> None:
        """Start it."""
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`; a pipe may be full
        words = ["-P", "-m", "bigrun", "report", str(directory.absolute()), "--out", str(page.absolute())]
        self._process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._words,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self._began, self._is_ended = time.monotonic(), False
        with contextlib.suppress(OSError):
            Path(f"/proc/{self._process.pid}/oom_score_adj").write_text(FIRST_TO_END)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, NICE)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self._began

    @property
    def failure(self) -> str:
        """What it said when it failed; "" when it did not, or was ended."""
        if not self._process.returncode or self._is_ended:
            return ""
        self._words.seek(0)
        said = self._words.read(20_000).decode(errors="replace").strip().splitlines()
        return said[-1] if said else f"exit code {self._process.returncode}"

    def end(self) -> None:
        """End it, if it has not ended."""
        if self.is_running:
            self._is_ended = True
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End it, and give back what it holds."""
        self.end()
        self._words.close()
