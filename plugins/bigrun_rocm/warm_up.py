"""When TunableOp has met the shapes of a run."""

from __future__ import annotations

import attrs

__all__ = ["Steps", "WarmUp", "steps_for"]


@attrs.frozen
class Steps:
    """Of a warm-up, for each pair of crop sizes."""

    quiet: int
    most: int


ALL_CROPS = Steps(quiet=5, most=20)
"""A step meets every shape but those of the size that chance decides."""
KEPT_CROPS = Steps(quiet=20, most=80)
"""With stochastic depth a pass keeps one of two numbers of global crops, and one of two of local ones by the same draw:
three combinations, of which one or two have a probability of 0.2 with the shipped presets. With one micro-batch in a
step 5 steps miss such a one in a third of all processes, 20 in 1 %."""


def steps_for(drop_path_fraction: float) -> Steps:
    """How long shapes may be met for the first time."""
    return KEPT_CROPS if drop_path_fraction > 0 else ALL_CROPS


@attrs.define
class WarmUp:
    """Ends the tuning of a process by how many results there are after each of its steps: when none has been added for
    some steps, and after a number of steps in any case. Then no step of a long run measures kernels, whatever shapes it
    meets."""

    most_steps: int
    quiet_steps: int
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
