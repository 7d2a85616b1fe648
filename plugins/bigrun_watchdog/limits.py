"""How long a run may stand in each of the things that it does."""

from __future__ import annotations

import attrs

from bigrun.sections.run import RunSection
from bigrun_watchdog.watcher import State

__all__ = ["WAITS", "Limits"]

WAITS = {
    "data": "waiting for images: a disk or a network that does not answer, or a process that decodes and does not come "
    "back. Images that are only slow are no hang: data_wait_fraction tells of them",
    "step": "computing: the device, its driver, or a plugin in a hook of the step",
    "observe": "telling plugins of the step: one of them does not come back from its hook",
    "checkpoint": "saving: a disk that does not answer",
    "end": "ending: a plugin does not come back from its last hook, a process that decodes does not end, or a disk "
    "does not answer",
}
"""What a run waits for, by `run.activity`; any other, as its start, has no limit."""


@attrs.frozen
class Limits:
    """In seconds."""

    step_seconds: float
    first_step_seconds: float
    save_seconds: float
    first_step: int
    """The first that this process takes."""

    @classmethod
    def of(cls, step_seconds: float, run: RunSection, first_step: int) -> Limits:
        """The first step has no less time than every other one."""
        return cls(step_seconds, max(step_seconds, run.first_step_limit_seconds), run.save_limit_seconds, first_step)

    @property
    def smallest_seconds(self) -> float:
        """Whoever looks must look more often."""
        return min(self.step_seconds, self.save_seconds)

    def of_state(self, state: State) -> float | None:
        """How long a state may last; None: for ever."""
        step, activity = state
        if activity == "checkpoint":
            return self.save_seconds
        if activity not in WAITS:
            return None
        return self.first_step_seconds if step <= self.first_step or activity == "end" else self.step_seconds
