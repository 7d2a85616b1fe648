"""watchdog: a run that does not move any more writes down where it stands, and ends."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs

from bigrun import hookimpl, option
from bigrun.errors import ExitCode
from bigrun.options import above, at_least
from bigrun_watchdog.limits import WAITS, Limits
from bigrun_watchdog.outside import Outside
from bigrun_watchdog.records import Hang, Records
from bigrun_watchdog.stacks import write_stacks
from bigrun_watchdog.watcher import State, Watcher

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["Watchdog", "WatchdogConfig", "within"]

TICK_SECONDS = 5.0
DISK_SECONDS = 10.0
FLUSH_SECONDS = 1.0


@attrs.frozen
class WatchdogConfig:
    """How long a part of a step may take before the process is ended: waiting for images, computing, telling plugins.
    Take ten times the slowest step."""

    step_limit_seconds: float = option(
        1800.0,
        check=above(0),
        help="Limit for every step but the first, which has `run.first_step_limit_seconds`, or this if it is more; "
        "a save has `run.save_limit_seconds`.",
    )
    grace_seconds: float = option(
        30.0,
        check=at_least(0),
        help="When the stacks are written, the run still may move for so long; if it does, it goes on.",
    )


class Watchdog:
    """Looks at `run.activity` and the step from a thread, and from a process of its own at that thread."""

    Config = WatchdogConfig
    observer = True

    def __init__(self, config: WatchdogConfig) -> None:
        self.config = config
        self._run: Run | None = None
        self._records: Records | None = None
        self._watcher: Watcher | None = None
        self._outside: Outside | None = None
        self._slow: Hang | None = None
        self._error = ""

    @hookimpl
    def header_lines(self, run: Run) -> list[str]:
        limits = self._limits_of(run)
        return [
            f"watchdog     ends the process when a step stands still for {limits.step_seconds:g} s, the first for "
            f"{limits.first_step_seconds:g} s"
        ]

    @hookimpl
    def on_start(self, run: Run) -> None:
        self._run, limits = run, self._limits_of(run)
        self._records = Records(run.path_for("watchdog"), run.strategy.rank)
        self._tell(run, self._records)
        tick = min(TICK_SECONDS, limits.smallest_seconds / 20)
        # whatever a run waits for, a save included, lets other threads run: only what a first step does may not
        self._outside = Outside(self._records.interpreter, limits.first_step_seconds, tick)
        self._watcher = Watcher(self._look, limits.of_state, self._alarm, self._outside, tick)
        self._watcher.start()

    @staticmethod
    def _tell(run: Run, records: Records) -> None:
        """What the process before could not say any more."""
        hang, stacks = records.take_hang(), records.take_interpreter()
        if hang is not None:
            run.event("hang", f"the process before was ended: {hang}", "warning", **attrs.asdict(hang))
        if stacks is not None:
            message = f"a process before ran no Python for long, in native code; stacks of all threads: {stacks}"
            run.event("hang", message, "warning", stacks=str(stacks))

    @hookimpl
    def after_step(self, run: Run) -> None:
        """Events are told by the run's own thread, at the next step."""
        slow, self._slow = self._slow, None
        if slow is not None:
            run.event("slow-step", f"it moves again, and the run goes on: {slow}", "warning", **attrs.asdict(slow))

    @hookimpl
    def on_error(self, error: BaseException) -> None:
        """What nobody would hear of if the run hung on its way out."""
        self._error = f"; it was ending with {type(error).__name__}: {error}"

    @hookimpl
    def teardown(self) -> None:
        """The run has closed what it holds, its saver included; what the sentinel's file waits for is still watched."""
        if self._outside is not None:
            self._outside.close()
            self._outside = None
        if self._watcher is not None:
            self._watcher.end()
            self._watcher = None

    def _limits_of(self, run: Run) -> Limits:
        return Limits.of(self.config.step_limit_seconds, run.config.run, run.step + 1)

    def _look(self) -> State:
        assert self._run is not None
        return self._run.plugins.step, self._run.activity

    # -- in the watcher's thread ------------------------------------------------------------------------------

    def _alarm(self, state: State, seconds: float, limit: float) -> None:
        """Write down where the run stands; end the process unless it moves after all."""
        assert self._records is not None
        assert self._watcher is not None
        step, activity = state
        path = self._records.new_stacks(step)
        hang = Hang(step, activity, seconds, limit, str(path))
        moment = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        lines = [f"bigrun watchdog, {moment}: {hang}{self._error}", WAITS[activity]]
        if not within(DISK_SECONDS, write_stacks, path, lines):
            hang = attrs.evolve(hang, stacks="on standard error, for the disk does not take them")
            within(DISK_SECONDS, faulthandler.dump_traceback, 2)
        if self._watcher.moves_within(self.config.grace_seconds, state):
            self._slow = hang
            return
        try:
            within(DISK_SECONDS, self._records.leave, hang)
            told = f"watchdog: {hang}{self._error}"
            message = f"{told}. The process ends; the same command continues from the newest checkpoint.\n"
            within(DISK_SECONDS, os.write, 2, message.encode())  # past Python's own streams, which may be what hangs
            for stream in (sys.stdout, sys.stderr):
                within(FLUSH_SECONDS, stream.flush)
        finally:
            os._exit(ExitCode.HUNG)


def within(seconds: float, function: Callable[..., object], *arguments: Any) -> bool:
    """Call a function that waits for a disk or a pipe, which may be what the run waits for; returns whether it has done
    its work in time and without an OSError."""
    done = []

    def call() -> None:
        with contextlib.suppress(OSError):
            function(*arguments)
            done.append(True)

    thread = threading.Thread(target=call, name="watchdog-writes", daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(done)
