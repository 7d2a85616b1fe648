"""slurm-requeue: a job whose time is up goes back into the queue, and continues when its turn comes."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import attrs

from bigrun import hookimpl, option
from bigrun.launch.options import JOB_REQUEUES
from bigrun.options import above
from bigrun.time_limit import TimeIsUp

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["SlurmRequeue"]

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""What `sbatch --signal` sends before the time is up. TERM may be `scancel`, and a cancelled job is not wanted back."""


@attrs.frozen
class SlurmConfig:
    """How long Slurm may take to answer."""

    timeout_seconds: float = option(60.0, check=above(0), help="`scontrol requeue` may take so long.")


class SlurmRequeue:
    """Runs `scontrol requeue $SLURM_JOB_ID` once, when the run has saved and ends although it is not finished. What
    goes wrong is an event: the checkpoint is safe, and somebody has to submit the job again."""

    Config = SlurmConfig
    observer = True

    def __init__(self, config: SlurmConfig) -> None:
        self.timeout_seconds = config.timeout_seconds

    @hookimpl
    def header_lines(self, run: Run) -> list[str]:
        job = os.environ.get("SLURM_JOB_ID")
        who = " by its script" if JOB_REQUEUES in os.environ else ""
        return [f"slurm        job {job} is requeued{who} when its time is up" if job else "slurm        not in a job"]

    @hookimpl
    def on_finish(self, run: Run) -> None:
        job = os.environ.get("SLURM_JOB_ID")
        is_time = run.stop_signal in WARNINGS or run.get(TimeIsUp) is not None
        if run.finished or not is_time or not job or not run.is_main or JOB_REQUEUES in os.environ:
            return
        command = ["scontrol", "requeue", job]
        try:
            subprocess.run(command, capture_output=True, text=True, timeout=self.timeout_seconds, check=True)
        except subprocess.CalledProcessError as error:
            self._failed(run, command, error.stderr.strip() or f"exit code {error.returncode}")
        except (OSError, subprocess.TimeoutExpired) as error:
            self._failed(run, command, str(error))
        else:
            run.event("requeued", f"the job goes back into the queue: {' '.join(command)}", job=job)

    @staticmethod
    def _failed(run: Run, command: list[str], why: str) -> None:
        run.event("not-requeued", f"{' '.join(command)} failed: {why}; submit the job again", "error")
