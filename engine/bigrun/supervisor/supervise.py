"""`bigrun run --supervise`: start the run again when it crashed or hung, as long as that helps. Torch-free."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from bigrun.checkpoint.store import CheckpointStore
from bigrun.directory import check_directory, choose_directory
from bigrun.errors import ExitCode
from bigrun.lock import RunLock
from bigrun.peers.place import refuse_several
from bigrun.supervisor.child import Child, Start
from bigrun.supervisor.command import words_of
from bigrun.supervisor.history import History, describe_end, describe_start
from bigrun.supervisor.signals import blocked, next_signal

if TYPE_CHECKING:
    from bigrun.config import Document

__all__ = ["Supervisor"]

RESTARTED = (ExitCode.ERROR, ExitCode.HUNG)
"""And every death by a signal. Other exit codes are answers: done, stopped, halted; and refused, unless the command was
accepted before: then images, a GPU or room on the disk are missing, which may come back."""
MAX_RESTARTS = 3
LONGEST_DELAY_SECONDS = 60.0


class Supervisor:
    """The parent of one run's process, and of those that follow it."""

    def __init__(self, command: click.Context, document: Document) -> None:
        """
        Args:
            command: `bigrun run` as it was given.
            document: its preset with all overrides.
        """
        refuse_several("--supervise")
        given = command.params
        self.command = command
        self.directory = choose_directory(document, given["run_dir"], fresh=given["fresh"])
        check_directory(self.directory)
        RunLock(self.directory).check_free()  # waiting for another run's end would take it over
        self.max_restarts = MAX_RESTARTS if given["max_restarts"] is None else given["max_restarts"]
        self.history = History(self.directory)
        self._ends = end_of(document)
        self._stop: signal.Signals | None = None
        self._listed: int | None = None
        self._newest = self._first_newest = self._newest_checkpoint()
        self._in_vain = 0

    def run(self) -> int:
        """Start the run until it ends by itself, is told to stop, or cannot go on; returns the exit code.

        A stop signal goes to the run, which saves and ends. One that a terminal sends reaches the run by itself.
        """
        with blocked():
            while True:
                start = self._one_start()
                if self._stop is not None or self._is_answer(start):
                    return self._end(start)
                if start.newest is not None and (self._newest is None or start.newest > self._newest):
                    self._newest, self._in_vain = start.newest, 0
                if self._in_vain == self.max_restarts:
                    return self._give_up()
                self._in_vain += 1
                code = self._wait(start)
                if code is not None:
                    return code

    def _is_answer(self, start: Start) -> bool:
        """Whether another start would say the same.

        A refusal is one unless an earlier start was built, or a checkpoint says that the run once was; then it is one
        if all starts are refused to the last.
        """
        if start.returncode == ExitCode.USAGE:
            was_built = any(earlier.step is not None for earlier in self.history.starts)
            return not was_built and (self._first_newest is None or self._in_vain == self.max_restarts)
        return start.returncode >= 0 and start.returncode not in RESTARTED

    def _one_start(self) -> Start:
        starts = self.history.starts
        before = describe_end(starts[-1].returncode) if starts else ""
        backend = next((start.backend for start in reversed(starts) if start.backend is not None), None)
        child = Child(len(starts) + 1, before, backend, self._words(is_first=not starts))
        self.history.began(child.number, child.pid)
        while child.is_running():
            number, is_for_us_alone = next_signal(1.0)
            if number is not None:
                self._stop = number
                if is_for_us_alone:
                    child.send(number)
        start = child.result(self._newest_checkpoint())
        self.history.ended(start)
        return start

    def _words(self, *, is_first: bool) -> list[str]:
        """The first start chooses the directory, and all others continue there; the time is that of all together."""
        replaced: dict[str, Any] = {"supervise": False, "max_restarts": None, "run_dir": self.directory}
        if not is_first:
            replaced["fresh"] = False
        if not is_first and self._ends is not None:
            replaced["max_hours"] = (self._ends - time.monotonic()) / 3600
        if self._newest != self._first_newest:
            replaced["drop_plugins"] = ()  # a newer checkpoint does not know them any more
        return words_of(self.command, **replaced)

    def _wait(self, start: Start) -> int | None:
        """Before the next start: what has failed for want of something may find it a little later. The exit code, if
        there is to be none."""
        seconds = min(2.0 ** (self._in_vain - 1), LONGEST_DELAY_SECONDS)
        say(f"{describe_start(start)}; restart {self._in_vain} of {self.max_restarts} in {seconds:.0f} s")
        until = time.monotonic() + seconds
        while self._stop is None and (left := until - time.monotonic()) > 0:
            self._stop, _ = next_signal(left)
        if self._stop is not None:
            return 128 + self._stop
        if self._ends is not None and time.monotonic() >= self._ends:
            say("run.max_hours are over")
            return ExitCode.STOPPED
        return None

    def _end(self, start: Start) -> int:
        if self.command.params["fresh"] and start.number > 1 and start.returncode != ExitCode.FINISHED:
            say(f"--run-dir {self.directory} in place of --fresh continues")
        return start.returncode if start.returncode >= 0 else 128 - start.returncode

    def _give_up(self) -> int:
        restarts = f"{self.max_restarts} restart{'s' if self.max_restarts != 1 else ''}"
        say(self.history.give_up(f"no newer checkpoint after {restarts}"))
        return ExitCode.NO_PROGRESS

    def _newest_checkpoint(self) -> int | None:
        """Its step, by names and manifests: the run itself verifies what it continues from. The last one known while
        the disk does not answer, or is not mounted."""
        with contextlib.suppress(OSError):
            self._listed = max(CheckpointStore(self.directory / "checkpoints").steps(), default=self._listed)
        return self._listed


def end_of(document: Document) -> float | None:
    """When `run.max_hours` are over, on the monotonic clock; the run itself says what is wrong with a bad value."""
    run = document.tables.get("run")
    hours = run.get("max_hours") if isinstance(run, Mapping) else None
    return time.monotonic() + hours * 3600 if isinstance(hours, int | float) else None


def say(text: str) -> None:
    click.echo(f"supervisor: {text}", err=True)
