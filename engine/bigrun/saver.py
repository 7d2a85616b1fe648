"""When checkpoints are due, and the one that is being written while training goes on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.checkpoint.space import human_bytes, needed, require_room
from bigrun.errors import CheckpointError, NotSavedError
from bigrun.peers.peers import Peers, SaidElsewhere
from bigrun.saved import note_saved

if TYPE_CHECKING:
    from bigrun.checkpoint.store import CheckpointStore
    from bigrun.run import Run
    from bigrun.state import State

__all__ = ["SaveTimes", "Saver", "saving"]


@attrs.frozen
class SaveTimes:
    """What the newest checkpoint has cost."""

    stall_seconds: float
    """In which training stood still: to copy the state, and to wait for the save before."""
    total_seconds: float
    """From the end of its step to its name in the directory."""


@attrs.frozen
class Pending:
    """A checkpoint that is being written."""

    step: int
    began: float
    stall_seconds: float
    bytes: int
    anomalies: list[str]
    """What it says was reported since the one before."""
    future: Future[tuple[Path, float]]
    """Its directory, and when it had its name."""


class Saver:
    """Saves a run's state: on time, on request and at the end; in a thread of its own unless told otherwise.

    A step waits for the copy of the state in host memory, and for the save before it if that is still on. What the
    thread has done is noticed by the next step: a checkpoint that the disk refused is an event, and the next one is
    tried when it is due; any other error of the thread is raised there.
    """

    def __init__(self, every_steps: int, *, background: bool) -> None:
        self.every_steps = every_steps
        self.background = background
        self.times: SaveTimes | None = None
        """Of the newest checkpoint; None before the first."""
        self.failures = 0
        """Saves in a row that the disk has refused."""
        self.reasons: list[str] = []
        """Why the next one is due before its time; the same on all processes."""
        self._low = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="verify")
        self._closing = threading.Event()
        self._pending: Pending | None = None
        self._written: list[tuple[int, Path]] = []
        self._staging: Any = None
        self._writers = Peers()
        """Who saves together: this process alone, unless the state is sharded."""

    def request(self, reason: str) -> None:
        """Make a checkpoint due after the step being taken."""
        self.reasons.append(reason)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after this step by cadence or request."""
        return step % self.every_steps == 0 or bool(self.reasons)

    def save(self, run: Run) -> None:
        """Begin to save the state after `run.step`; see `written`. All processes call it; those save that have a part
        of the state, which is the main one or all. The others wait, and whoever watches them knows for what."""
        run.metrics.share()
        self.reasons.clear()
        with saving(run):
            if run.is_main or run.strategy.is_sharded:
                self._begin(run)
            run.peers.any(False)

    def is_saved(self, run: Run) -> bool:
        """Whether a checkpoint has the state after `run.step`, as the main process knows."""
        with saving(run):
            return bool(run.peers.by_main(lambda: run.saved_step == run.step))

    def _begin(self, run: Run) -> None:
        from bigrun.state import gather_state

        if run.strategy.is_sharded and self._writers.size == 1:
            self._writers = run.peers.beside()
        began = time.perf_counter()
        self._settle(run, wait=True)
        state = gather_state(run)
        try:
            self._writers.by_main(lambda: self._check_room(run, state.bytes))
        except NotSavedError as error:
            self._failed(run, run.step, error, state.bytes)
        except SaidElsewhere:
            pass
        else:
            copy = self._stage(run, state) if self.background else None
            anomalies = run.incidents.begin_interval()
            future = self._writer.submit(publish, run.checkpoints, copy or state, self._writers)
            reading = self._reader.submit(read_older, run.checkpoints if run.is_main else None, self._closing)
            stall = time.perf_counter() - began
            self._pending = Pending(run.step, began, stall, state.bytes, anomalies, future)
            if copy is None:
                self._settle(run, wait=True)
                reading.result()

    def written(self, run: Run, *, wait: bool = False) -> list[tuple[int, Path]]:
        """Step and directory of every checkpoint that was published since the last call.

        Args:
            wait: for the one that is being written.
        """
        self._settle(run, wait=wait)
        written, self._written = self._written, []
        return written

    def close(self, run: Run) -> None:
        """Wait for the thread, whose failure is said. What it could not publish has left no trace."""
        self._closing.set()
        try:
            self._settle(run, wait=True)
        except Exception as error:  # the run ends with another one, or this one was raised already
            run.event("checkpoint-failed", f"the newest checkpoint could not be saved: {error}", "error")
        self._writer.shutdown()
        self._reader.shutdown()
        if self._staging is not None:
            self._staging.release()

    def lost(self, step: int) -> CheckpointError:
        """What to raise when the run has ended in a state that could not be saved."""
        return CheckpointError(f"the last state, after step {step}, could not be saved; see the message above")

    def _stage(self, run: Run, state: State) -> State | None:
        """The state as it is now, whatever the next steps do to the networks; None where there is no memory for it."""
        from bigrun.checkpoint.staging import Staging

        self._staging = self._staging or Staging()
        try:
            return attrs.evolve(state, tensors=self._staging.copy(state.tensors))
        except MemoryError as error:
            run.event(
                "checkpoint-in-foreground",
                f"no memory for a copy of the state ({human_bytes(state.bytes)}): training waits for the disk; "
                f"run.background_checkpoints = false says so from the start ({error})",
                "warning",
            )
            return None

    def _check_room(self, run: Run, size: int) -> None:
        low, self._low = self._low, not require_room(run.checkpoints.directory, size)
        if self._low and not low:
            run.event(
                "disk-space-low",
                f"{run.checkpoints.directory}: there is room for one more checkpoint of {human_bytes(size)}, not for "
                "two: make room, or the one after it cannot be saved",
                "warning",
                checkpoint_bytes=size,
            )

    def _settle(self, run: Run, *, wait: bool) -> None:
        pending = self._pending
        if pending is None or not (wait or pending.future.done()):
            return
        self._pending = None
        waited_since = time.perf_counter()
        try:
            with saving(run):
                path, published = pending.future.result()
        except NotSavedError as error:
            run.incidents.give_back(pending.anomalies)
            self._failed(run, pending.step, error, pending.bytes)
        except SaidElsewhere:
            run.incidents.give_back(pending.anomalies)
        else:
            waited = time.perf_counter() - waited_since
            self.times = SaveTimes(pending.stall_seconds + waited, published - pending.began)
            self.failures = 0
            run.saved_step = pending.step
            if run.is_main:
                note_saved(run.directory, pending.step)
                self._written.append((pending.step, path))

    def _failed(self, run: Run, step: int, error: NotSavedError, size: int) -> None:
        self.failures += 1
        safe = "there is no checkpoint yet"
        if run.saved_step is not None:
            safe = f"the newest checkpoint is still that of step {run.saved_step}"
        if run.finished or run.stop_reason is not None:
            then = "training is over"
        else:
            following = step - step % self.every_steps + self.every_steps
            following = following if run.max_steps is None else min(following, run.max_steps)
            then = f"training goes on, and the next one is tried after step {following}"
        takes = needed(run.checkpoints.directory, size, error.__cause__)
        run.event(
            "checkpoint-failed",
            f"the checkpoint of step {step} could not be saved ({error}{takes}); {safe}; {then}",
            "error",
            failed_step=step,
            checkpoint_bytes=size,
            failures_in_a_row=self.failures,
        )


@contextlib.contextmanager
def saving(run: Run) -> Iterator[None]:
    """What the process does meanwhile is a save, or to wait for one."""
    activity, run.activity = run.activity, "checkpoint"
    try:
        yield
    finally:
        run.activity = activity


def publish(store: CheckpointStore, state: State, writers: Peers) -> tuple[Path, float]:
    """Write a state; returns its directory, and when it had its name."""
    return state.save(store, writers), time.perf_counter()


def read_older(store: CheckpointStore | None, closing: threading.Event) -> None:
    """Read the checkpoints that this process does not know, the newest first: whoever removes some has to know which
    are whole, and nobody should wait for that. None: of several processes the main one reads."""
    if store is None:
        return
    with contextlib.suppress(OSError):  # of a network disk; the next save tries again
        for step in reversed(store.steps()):
            if closing.is_set():
                return
            store.is_verified(step)
