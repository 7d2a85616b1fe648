"""The processes of a run on this machine: started together, told the same, and waited for until all have ended."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from bigrun.errors import ExitCode
from bigrun.process import STOP_SIGNALS
from bigrun.supervisor.signals import next_signal

__all__ = ["Group"]

NOTICE_SECONDS = 5.0
"""So long a process has to notice itself that another one is gone, and to say so."""
ORDERLY = {
    ExitCode.FINISHED,
    ExitCode.STOPPED,
    ExitCode.QUARANTINED,
    ExitCode.HALTED,
    *(128 + number for number in STOP_SIGNALS),
}
"""What a process says whose run has come to an end together with the others; every other end is one in the middle."""


class Group:
    """Child processes, by their number on this machine. Torch-free.

    Nobody is killed because another has ended well: the main process may still be saving, which takes minutes for a
    large network. When one has failed or was killed the others cannot go on. Those that train notice the loss
    themselves, at once on a CPU; those that still wait for it to join are told to stop; and all have `grace_seconds` to
    end: on GPUs a process may wait for ever for one that is gone.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds
        self.ended: list[tuple[int, int]] = []
        """(number, return code) in the order of their ends; minus n for one that signal n killed."""
        self.overdue: list[int] = []
        """Numbers of those that had not ended within the grace time, and were killed."""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._abandoned_at: float | None = None
        self._is_told = False
        self._ended_alone: int | None = None
        """So many had ended when the others were told to stop, or all."""

    def start(self, words: Sequence[str], environment: Mapping[str, str], passed: Sequence[int]) -> int:
        """Start one more; returns its process id. Input and output are those of this process.

        Args:
            passed: file descriptors that it has, too.
        """
        self._processes.append(subprocess.Popen(words, env=environment, pass_fds=passed))
        return self._processes[-1].pid

    def look(self) -> bool:
        """Pass on what stop signals have come (they are blocked in this process), see who has ended, and whether
        somebody has to be ended; returns whether one is left."""
        while (heard := next_signal(0))[0] is not None:
            number, is_for_us_alone = heard
            assert number is not None
            if is_for_us_alone:
                self.send(number)
        known = {number for number, _ in self.ended}
        new = [(number, code) for number, code in enumerate(p.poll() for p in self._processes) if code is not None]
        self.ended += sorted((end for end in new if end[0] not in known), key=lambda end: (end[1] >= 0, end[0]))
        left = len(self.ended) < len(self._processes)
        if left and self.failure is not None:
            self.abandon()
        if left and self._abandoned_at is not None:
            self._hurry(time.monotonic() - self._abandoned_at)
        return left

    def abandon(self) -> None:
        """Another process of the run is lost, here or on another machine: who is left is to end."""
        if self._abandoned_at is None:
            self._abandoned_at = time.monotonic()

    def _hurry(self, seconds: float) -> None:
        if seconds >= min(NOTICE_SECONDS, self.grace_seconds) and not self._is_told:
            self._is_told, self._ended_alone = True, len(self.ended)
            self.send(signal.SIGTERM)
        if seconds >= self.grace_seconds:
            self.overdue = self.overdue or [
                n for n, process in enumerate(self._processes) if process.returncode is None
            ]
            self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all that have not ended."""
        for process in self._processes:
            process.send_signal(number)

    def end(self) -> None:
        """Tell all to stop, and wait until they have; nothing happens where none is left."""
        if self.look():
            self.abandon()
            while self.look():
                time.sleep(0.1)

    @property
    def failure(self) -> int | None:
        """The return code of the first one that did not end together with the others, and not by this group: one that
        was told to stop may have been about to say its own error."""
        alone = len(self.ended) if self._ended_alone is None else self._ended_alone
        ended = [code for number, (_, code) in enumerate(self.ended) if number < alone or code > 0]
        return next((code for code in ended if code not in ORDERLY), None)

    @property
    def code(self) -> int:
        """The return code of the run: that of the first failure, which the others follow from; else of the main
        process; else, where another machine has lost a process, an error."""
        failure = self.failure
        if failure is None and self._abandoned_at is not None:
            return ExitCode.ERROR
        return dict(self.ended)[0] if failure is None else failure
