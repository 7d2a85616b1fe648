"""When what happens in one run: every step is known before the first is taken."""

from __future__ import annotations

import math
from collections.abc import Collection

import attrs

from bigrun.errors import UsageError
from bigrun_gram.config import TABLE, GramConfig

__all__ = ["SHORTEST", "Plan"]

SHORTEST = 5000
"""A shorter run has no Gram anchoring by rule: dense quality decays after about 100,000 steps [spec 6]."""

TEACHER = frozenset({"mode", "snapshot_step", "candidates_every_steps"})
START = TEACHER | {"start_step"}
ORIGINS = {
    "snapshot_step": TEACHER,
    "first_candidate_step": TEACHER,
    "candidates_every_steps": TEACHER,
    "start_step": START,
    "first_refresh_step": START | {"first_refresh_step", "refresh_every_steps"},
}
"""The options that a step of the plan comes from."""


@attrs.frozen
class Plan:
    """The steps of one run. It is kept in the run's checkpoints: extending a run does not move what began."""

    snapshot_step: int | None
    """The teacher of this step is taken; None: a candidate is chosen, or none is needed."""
    first_candidate_step: int | None
    candidates_every_steps: int | None
    start_step: int
    ramp_steps: int
    weight: float
    first_refresh_step: int
    refresh_every_steps: int
    max_refreshes: int | None
    """None: no limit."""
    local_weight: float | None
    """None: left alone."""
    teacher_momentum: float

    @classmethod
    def of(cls, config: GramConfig, max_steps: int | None, warmup_steps: int) -> Plan | None:
        """Fill open values from the run's length, in the proportions of the published 7B run [spec 6].

        Args:
            max_steps: T, or None for a run without end.
            warmup_steps: when the last warm-up ends; no candidate is earlier.

        Returns:
            None when there is no Gram anchoring: mode off, or a short run of which no step is given.

        Raises:
            UsageError: the run has no end and a value is open, or no candidate is before start_step.

        A loss that would begin after the run's end is no error: a preset is often tried for a few steps.
        """
        none_given = config.start_step is None and config.snapshot_step is None
        if config.mode == "off" or (
            none_given and config.mode == "snapshot" and max_steps is not None and max_steps < SHORTEST
        ):
            return None
        if max_steps is None:
            require_steps(config)
        total = max_steps or 0
        first, every = candidate_steps(config, total, warmup_steps)
        earliest = max(config.snapshot_step or 0, first or 0) + 1
        start = config.start_step or max(round(0.83 * total), earliest)
        if start < earliest:
            raise UsageError(
                f"{TABLE}.start_step: {start} leaves no candidate for the Gram teacher: the first is of step {first}, "
                f"a multiple of {every} when the warm-ups have ended (step {warmup_steps}); start later, or set "
                "snapshot_step"
            )
        refresh_every = config.refresh_every_steps or max(500, round(0.01 * total))
        momentum = 0.0 if max_steps is None else max(1 - 20 / total, 0.0)
        return cls(
            snapshot_step=config.snapshot_step if config.mode == "snapshot" else None,
            first_candidate_step=first,
            candidates_every_steps=every,
            start_step=start,
            ramp_steps=config.ramp_steps or max(min(max(100, round(0.001 * total)), total - start), 1),
            weight=config.weight,
            first_refresh_step=config.first_refresh_step or start - 1 + refresh_every,
            refresh_every_steps=refresh_every,
            max_refreshes=0 if config.mode == "ema" else config.max_refreshes,
            local_weight=config.local_weight,
            teacher_momentum=momentum if config.teacher_momentum is None else config.teacher_momentum,
        )

    def postponed(self, step: int, *, has_teacher: bool) -> Plan:
        """The same for a run that has taken `step` steps: nothing is planned for the past.

        Args:
            has_teacher: whether the Gram teacher or candidates for it are there, or it is not needed.
        """
        snapshot, first = self.snapshot_step, self.first_candidate_step
        if has_teacher:
            earliest = step + 1
        elif first is not None and (later := self.next_candidate(step)) is not None:
            first, earliest = later, later + 1
        else:  # a snapshot, or candidates that are all past
            snapshot, first = max(snapshot or 0, step + 1), None
            earliest = snapshot + 1
        return attrs.evolve(
            self.starting_at(max(self.start_step, earliest)),
            snapshot_step=snapshot,
            first_candidate_step=first,
            candidates_every_steps=self.candidates_every_steps if first else None,
        )

    def continuing(self, begun: Plan, changed: Collection[str]) -> Plan:
        """The same with the steps of the plan that it replaces, which may have been postponed, wherever none of the
        options that they come from is among the `changed` ones."""
        kept = {name: getattr(begun, name) for name, options in ORIGINS.items() if options.isdisjoint(changed)}
        return attrs.evolve(self.starting_at(kept.get("start_step", self.start_step)), **kept)

    def starting_at(self, step: int) -> Plan:
        """The same with the loss from this step on; no refresh is moved before it."""
        if step == self.start_step:
            return self
        refresh = self.first_refresh_step
        if refresh < step:
            refresh = step - 1 + self.refresh_every_steps
        return attrs.evolve(self, start_step=step, first_refresh_step=refresh)

    def ramp_at(self, step: int) -> float:
        """0 before the start, then half a cosine to 1."""
        done = min(max((step - self.start_step + 1) / self.ramp_steps, 0.0), 1.0)
        return 0.5 * (1 - math.cos(math.pi * done))

    def weight_at(self, step: int) -> float:
        """Weight of the Gram loss."""
        return self.weight * self.ramp_at(step)

    def local_weight_at(self, step: int, value: float) -> float:
        """The schedule's `value`, on the same ramp to this plan's weight of the local crops."""
        return value if self.local_weight is None else value + (self.local_weight - value) * self.ramp_at(step)

    def teacher_momentum_at(self, step: int, value: float) -> float:
        """The schedule's `value`, or this plan's least momentum."""
        return max(value, self.teacher_momentum) if step >= self.start_step else value

    def is_candidate(self, step: int) -> bool:
        """Whether the teacher of this step is a candidate."""
        return self.next_candidate(step - 1) == step

    def next_candidate(self, step: int) -> int | None:
        """The first candidate after a step; None when there is none."""
        if self.first_candidate_step is None or self.candidates_every_steps is None:
            return None
        since, every = step - self.first_candidate_step, self.candidates_every_steps
        later = self.first_candidate_step + max(since // every + 1, 0) * every
        return later if later < self.start_step else None

    def last_candidate(self) -> int | None:
        """The last before the start."""
        if self.first_candidate_step is None or self.candidates_every_steps is None:
            return None
        past = self.start_step - 1 - self.first_candidate_step
        return self.first_candidate_step + past // self.candidates_every_steps * self.candidates_every_steps

    def is_refresh(self, step: int, refreshes: int, taken_at_step: int) -> bool:
        """Whether the Gram teacher is replaced after this step.

        It is when it is older than the newest step of the plan at which it was to be replaced: that is this step,
        or one that was skipped.
        """
        is_left = self.max_refreshes is None or refreshes < self.max_refreshes
        newest = step - (step - self.first_refresh_step) % self.refresh_every_steps
        return is_left and step >= self.first_refresh_step and newest > taken_at_step


def require_steps(config: GramConfig) -> None:
    """Raises: UsageError naming the steps that a run without end cannot choose."""
    needed = ["start_step", "ramp_steps"]
    if config.mode == "snapshot" and config.candidates_every_steps is None:
        needed.insert(0, "snapshot_step")
    if config.mode != "ema" and config.max_refreshes != 0:
        needed.append("refresh_every_steps")
    missing = [name for name in needed if getattr(config, name) is None]
    if missing:
        names = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
        raise UsageError(f"{TABLE}: a run without run.max_steps needs {names}")


def candidate_steps(config: GramConfig, total: int, warmup_steps: int) -> tuple[int | None, int | None]:
    """The first candidate and the steps between two of them."""
    if config.mode != "snapshot" or config.snapshot_step is not None:
        return None, None
    every = config.candidates_every_steps or max(round(0.05 * total), 1)
    return max(-(-warmup_steps // every), 1) * every, every
