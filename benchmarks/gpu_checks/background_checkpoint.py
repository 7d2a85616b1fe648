"""Checkpoints that are written while training goes on: how long a step waits, beside one copy of the state."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl
from gpu_checks.check import Figures

if TYPE_CHECKING:
    from bigrun.run import Run
    from gpu_checks.subject import Subject

__all__ = ["measure", "problems"]

CHECKPOINTS, MOST_STEPS = 4, 500
COPIES, SLACK_SECONDS = 2.0, {"cuda": 0.1, "cpu": 1.0}
"""A stall of so many copies and so long is a copy and nothing else; on a CPU the network has the same cores. The first
one also finds the memory, and does not count."""


class Saves:
    """Asks for a checkpoint as soon as the one before is on the disk, and measures both."""

    def __init__(self) -> None:
        self.times: list[dict[str, float]] = []
        self.copy_seconds = 0.0
        self.state_bytes = 0
        self.step_seconds: dict[bool, list[float]] = {False: [], True: []}
        """By whether a checkpoint was being written."""
        self._writing = False
        self._since = 0.0
        self._quiet = 0

    @hookimpl(tryfirst=True)
    def before_step(self, run: Run, step: int) -> None:
        if step == 3:
            self._copy(run)
        self._since = time.perf_counter()

    def _copy(self, run: Run) -> None:
        from bigrun.checkpoint.staging import Staging
        from bigrun.state import gather_state
        from gpu_checks.steps import wait

        state, staging = gather_state(run), Staging()
        self.state_bytes = state.bytes
        for _ in range(2):  # the first finds the memory
            wait(run.device)
            began = time.perf_counter()
            staging.copy(state.tensors)
            self.copy_seconds = time.perf_counter() - began
        staging.release()

    @hookimpl(trylast=True)
    def after_step(self, run: Run, step: int) -> None:
        if step > 3:
            self.step_seconds[self._writing].append(time.perf_counter() - self._since)
        self._quiet += 1
        if step > 3 and not self._writing and self._quiet > 3 and len(self.times) < CHECKPOINTS:
            run.request_checkpoint("a check measures it")
            self._writing = True

    @hookimpl
    def on_checkpoint(self, run: Run) -> None:
        times = run.saver.times
        assert times is not None
        if len(self.times) == CHECKPOINTS:  # the last one, at the end of the run, is waited for
            return
        self.times.append({"stall_seconds": times.stall_seconds, "total_seconds": times.total_seconds})
        self._writing, self._quiet = False, 0
        if len(self.times) == CHECKPOINTS:
            run.request_stop("everything is measured")


def measure(subject: Subject) -> Figures:
    from gpu_checks.recipe import document
    from gpu_checks.steps import Steps, train

    saves = Saves()
    preset = document(subject, "vit_small", 64, ["run.background_checkpoints=true"])
    train(preset, Steps(MOST_STEPS), [saves])
    medians = {name: statistics.median(saves.step_seconds[w]) if saves.step_seconds[w] else None
               for name, w in (("quiet", False), ("writing", True))}  # fmt: skip
    return {
        "state_mb": saves.state_bytes / 1e6,
        "slack_seconds": SLACK_SECONDS[subject.device_type],
        "copy_seconds": saves.copy_seconds,
        "checkpoints": saves.times,
        "step_seconds": medians,
    }


def problems(figures: Mapping[str, Any]) -> Iterator[str]:
    times, copy = figures["checkpoints"], figures["copy_seconds"]
    if len(times) < 3:
        yield f"only {len(times)} checkpoints were published in {MOST_STEPS} steps"
        return
    allowed = COPIES * copy + figures["slack_seconds"]
    worst = max(each["stall_seconds"] for each in times[1:])
    if not worst <= allowed:
        yield f"a step waited {worst:.2f} s, a copy takes {copy:.2f} s"
    if not all(each["stall_seconds"] < each["total_seconds"] for each in times):
        yield f"training waited for the disk: {times}"
