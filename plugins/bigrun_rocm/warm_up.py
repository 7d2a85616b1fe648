"""When TunableOp has met the shapes of a run."""

from __future__ import annotations

import attrs

__all__ = ["QUIET_STEPS", "WarmUp"]

QUIET_STEPS = 5
"""For each size of crops. A step meets every shape but those that chance decides: the size, and one of three numbers of
crops that stochastic depth keeps."""


@attrs.define
class WarmUp:
    """Ends the tuning of a process by how many results there are after each of its steps: when none has been added for
    some steps, and after a number of steps in any case. Then no step of a long run measures kernels, whatever shapes it
    meets."""

    most_steps: int
    quiet_steps: int = QUIET_STEPS
    known: int = 0
    """Results before the first step."""
    steps: int = 0
    added_last: int = 0
    """By the newest step."""
    quiet: int = 0
    """Steps without a new result, up to the newest."""

    def after_step(self, results: int) -> bool:
        """Note a step; returns whether it was the last one of the warm-up."""
        self.added_last, self.known = results - self.known, results
        self.steps += 1
        self.quiet = 0 if self.added_last else self.quiet + 1
        return self.quiet >= self.quiet_steps or self.steps >= self.most_steps

    @property
    def was_cut_short(self) -> bool:
        """Whether it ended while shapes were still new."""
        return self.quiet < self.quiet_steps and self.added_last > 0
