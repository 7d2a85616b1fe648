"""watchdog: a run that does not move any more writes down where it stands, and ends."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun import hookimpl, option
from bigrun.errors import ExitCode
from bigrun.options import above, at_least
from bigrun_watchdog.limits import WAITS, Limits
from bigrun_watchdog.others import TICKS_TO_HEAR, Others
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
INTERRUPTED = ("data", "step", "observe")
"""What a process does when it waits for one that has ended; behind it, and in a save, it is busy with its own end."""


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
        self._others: Others | None = None
        self._slow: Hang | None = None
        self._error = ""
        self._tick_seconds = TICK_SECONDS

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
        tick = self._tick_seconds = min(TICK_SECONDS, limits.smallest_seconds / 20)
        self._others = Others(run.peers, tick, limits.first_step_seconds)
        # whatever a run waits for, a save included, lets other threads run: only what a first step does may not
        self._outside = Outside(self._records.interpreter, limits.first_step_seconds, tick)
        self._watcher = Watcher(self._look, limits.of_state, self._exceeded, self._alarm, self._beat, tick)
        self._watcher.start()

    @staticmethod
    def _tell(run: Run, records: Records) -> None:
        """What the process before could not say any more."""
        stacks = records.take_interpreter()
        for hang in records.take_hangs() if run.is_main else []:
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
        if self._others is not None:
            self._others.withdraw()
            self._others = None

    def _limits_of(self, run: Run) -> Limits:
        return Limits.of(self.config.step_limit_seconds, run.config.run, run.step + 1)

    def _look(self) -> State:
        assert self._run is not None
        return self._run.plugins.step, self._run.activity

    # -- in the watcher's thread ------------------------------------------------------------------------------

    def _beat(self) -> None:
        """All is well with this thread."""
        outside, others = self._outside, self._others
        if outside is not None:
            outside.beat()
        if others is not None:
            others.beat()

    def _exceeded(self, state: State, seconds: float, limit: float | None) -> float | None:
        """Tell other processes where this one stands, and hear where they do; the limit that is exceeded, if one is. A
        state that waits for another process may last as long as what that one does, but not for one that is lost."""
        assert self._others is not None
        assert self._records is not None
        self._others.note(state, seconds, limit)
        if (alarm := self._others.new_alarm()) is not None:
            self._write(self._records.new_stacks(state[0]), f"asked by {alarm}", state[1])
        end = self._others.end()
        if end is not None and state[1] in INTERRUPTED and seconds > self.config.grace_seconds:
            message, code = end
            path = self._records.new_stacks(state[0])
            self._write(path, message, state[1])
            self._leave(f"{message}. This process waits for it, and ends as well; stacks of all threads: {path}", code)
        over = limit if limit is not None and seconds > limit else None
        if self._others.has_lost_one(is_over=over is not None):
            return self._others.limit_seconds
        return None if self._others.is_only_waiting() else over

    def _alarm(self, state: State, seconds: float, limit: float) -> None:
        """Write down where the run stands; end the process unless it moves after all."""
        assert self._others is not None
        assert self._records is not None
        assert self._watcher is not None
        step, activity = state
        path = self._records.new_stacks(step)
        others, only_waits = self._others.describe()
        hang = Hang(step, activity, seconds, limit, str(path), self._run_rank, others, only_waits)
        self._others.raise_alarm(str(hang))
        if not self._write(path, f"{hang}{self._error}", activity):
            hang = attrs.evolve(hang, stacks="on standard error, for the disk does not take them")
        grace = max(self.config.grace_seconds, TICKS_TO_HEAR * self._tick_seconds if self._others.several else 0)
        if self._watcher.moves_within(grace, state):
            self._slow = hang
            return
        within(DISK_SECONDS, self._records.leave, hang)
        told = f"{hang}{self._error}"
        self._others.say_end(told, ExitCode.HUNG)
        self._leave(f"{told}. The process ends; the same command continues from the newest checkpoint.", ExitCode.HUNG)

    def _write(self, path: Path, why: str, activity: str) -> bool:
        """The stacks, to a file, or to standard error where the disk does not take them."""
        moment = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        lines = [f"bigrun watchdog, {moment}: {why}", WAITS.get(activity, activity)]
        if within(DISK_SECONDS, write_stacks, path, lines):
            return True
        within(DISK_SECONDS, faulthandler.dump_traceback, 2)
        return False

    def _leave(self, message: str, code: int) -> None:
        """End the process, whatever else of it hangs."""
        try:
            text = f"watchdog: {message}\n"
            within(DISK_SECONDS, os.write, 2, text.encode())  # past Python's own streams, which may be what hangs
            for stream in (sys.stdout, sys.stderr):
                within(FLUSH_SECONDS, stream.flush)
            if self._others is not None and self._others.several and self._run_rank == 0:
                time.sleep(TICKS_TO_HEAR * self._tick_seconds)  # the others read here why it ends
        finally:
            os._exit(code)

    @property
    def _run_rank(self) -> int:
        assert self._run is not None
        return self._run.strategy.rank


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
