"""The supervised process: `bigrun` as the user typed it, that tells its supervisor how far it is and dies with it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

from bigrun.cli import main as command_line
from bigrun.machine import describe_machine
from bigrun.markers import hookimpl
from bigrun.process_end import as_process
from bigrun.supervisor.device import check_device
from bigrun.supervisor.signals import BLOCKED

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["Attempt", "main"]

PR_SET_PDEATHSIG = 1
STEP_BYTES = 8


class Attempt:
    """The run's companion that says it was started again, and writes down backend and step for the supervisor."""

    def __init__(self, number: int, before: str, backend: str | None, step_file: int) -> None:
        """
        Args:
            number: which start of the supervisor this is, from 1.
            before: how the process before ended.
            backend: what the newest process that was built computed on; None: none was.
            step_file: descriptor of a file in memory that outlives this process: 8 bytes with the step, the backend.
        """
        self.number = number
        self.before = before
        self.backend = backend
        self._step_file = step_file
        self.program: list[str] = []
        """The words before those of the command: of the process that goes on in the place of this one."""
        self._is_said = number == 1

    @property
    def descriptor(self) -> int:
        """Of the file in memory, which whoever starts a process in the place of this one has to pass on."""
        return self._step_file

    def program_of(self, parent: int, *, is_told: bool = True) -> list[str]:
        """The words before those of a command that is this attempt in a child of the process `parent`.

        Args:
            is_told: whether it says that the run was started again, where it was.
        """
        number, before, backend = (self.number, self.before, self.backend or "") if is_told else (1, "", "")
        return [
            "-P",
            "-m",
            "bigrun.supervisor.attempt",
            str(number),
            str(self._step_file),
            str(parent),
            before,
            backend,
        ]

    @hookimpl(trylast=True)
    def configure_runtime(self, run: Run) -> None:
        """Whoever says which devices torch may see has said so by now."""
        if self.number > 1:
            check_device(run, self.backend)

    @hookimpl
    def on_start(self, run: Run) -> None:
        os.pwrite(self._step_file, describe_machine(run)["backend"].encode(), STEP_BYTES)
        self._write(run.step)
        if not self._is_said:
            self._is_said = True
            message = f"started again by the supervisor (start {self.number}); the process before: {self.before}"
            run.event("restarted", message, "warning", start=self.number, before=self.before)

    @hookimpl
    def after_step(self, step: int) -> None:
        self._write(step)

    def _write(self, step: int) -> None:
        os.pwrite(self._step_file, step.to_bytes(STEP_BYTES, "little"), 0)


def main(number: int, step_file: int, supervisor: int, before: str, backend: str, arguments: list[str]) -> None:
    """Run the command line as a child of the process `supervisor`, which has blocked signals for it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # the run saves, as for anybody who stops it
    if os.getppid() != supervisor:
        sys.exit("the supervisor died before the run began")
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, BLOCKED)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    attempt = Attempt(number, before, backend or None, step_file)
    attempt.program = attempt.program_of(supervisor)
    command_line(args=arguments, prog_name="bigrun", obj={"supervisor": attempt})


if __name__ == "__main__":
    number, step_file, parent = map(int, sys.argv[1:4])
    as_process(lambda: main(number, step_file, parent, sys.argv[4], sys.argv[5], sys.argv[6:]))
