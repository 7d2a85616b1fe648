"""What `bigrun plan` says of this run, found out by a process of its own while the run trains."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from bigrun.checkpoint.layout import CONFIG

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["Prediction"]

NICE = 19


class Prediction:
    """The most memory that tensors take in a step, predicted; a fraction of a minute, at the lowest priority."""

    def __init__(self, run: Run) -> None:
        """Start it, from the configuration as the run has written it down."""
        preset = str((run.directory / CONFIG).absolute())
        words = ["-P", "-m", "bigrun", "plan", preset, "--images", str(max(len(run.dataset), 1)), "--json"]
        words += [] if run.facts.is_gpu else ["--set", "hardware.device=cpu"]
        self._process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, NICE)

    def peak_bytes(self) -> int | None:
        """Once it is known; 0 if it cannot be predicted."""
        if self._process.poll() is None:
            return None
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return int(json.loads(self._process.stdout.read())["memory"]["peak_bytes"])
        return 0

    def close(self) -> None:
        """End it, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
