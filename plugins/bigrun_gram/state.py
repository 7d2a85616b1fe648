"""What the plugin remembers from one process to the next, and how a plan outlives a change of the run's length."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from bigrun_gram.candidates import Candidate
from bigrun_gram.config import GramConfig
from bigrun_gram.plan import Plan

if TYPE_CHECKING:
    from bigrun.config import Config

__all__ = ["State"]

PLANNED = (
    "mode", "snapshot_step", "candidates_every_steps", "start_step", "ramp_steps", "weight", "first_refresh_step",
    "refresh_every_steps", "max_refreshes", "local_weight", "teacher_momentum",
)  # fmt: skip
"""The options that a plan is made of."""


@attrs.define
class State:
    """Facts of a checkpoint."""

    plan: Plan | None = None
    options: dict[str, Any] | None = None
    """What the plan was made of; None before there is a plan."""
    max_steps: int | None = None
    """`run.max_steps` when the plan was made."""
    taken_at_step: int | None = None
    """When the Gram teacher last changed."""
    checkpoint: str | None = None
    """The file that it was taken from, as the option had it."""
    refreshes: int = 0
    candidate_step: int = 0
    """Of the newest candidate, 0 before the first."""
    candidates: list[Candidate] = attrs.field(factory=list)

    def to_json(self) -> dict[str, Any]:
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> State:
        """Version 1 had no plan; in version 2 candidates did not say whether they have learned, in version 3 not what
        has scored them, which was the hook `dense_score`."""
        plan = facts.get("plan")
        candidates = [Candidate(**c) for c in facts.get("candidates", ())]
        return cls(**{**facts, "plan": Plan(**plan) if plan else None, "candidates": candidates})

    def settle(self, options: GramConfig, config: Config, step: int) -> None:
        """Make the plan, or keep the one that there is: a change of the run's length moves nothing that was planned;
        an option that has changed moves what comes from it, and nothing into the past.

        Args:
            step: steps that the run has taken.

        Raises:
            UsageError: there is no such plan.
        """
        given = {name: getattr(options, name) for name in PLANNED}
        if given == self.options:
            return
        begun = self.plan
        if begun is None:
            self.max_steps = config.run.max_steps
        plan = Plan.of(options, self.max_steps, warmup_steps(config))
        changed = {name for name in PLANNED if self.options is None or given[name] != self.options.get(name)}
        has_teacher = self.taken_at_step is not None or options.mode in ("ckpt", "ema")
        self.plan = plan and self._moved(plan, begun, changed, step, has_teacher=has_teacher)
        self.options = given

    def _moved(self, plan: Plan, begun: Plan | None, changed: Collection[str], step: int, *, has_teacher: bool) -> Plan:
        """A new plan, with what is kept of the one that it replaces, and nothing in the past of the run."""
        if begun is not None:
            plan = plan.continuing(begun, changed)
            if begun.start_step <= step and has_teacher and plan.start_step <= step:  # the loss counts, and goes on
                return plan.starting_at(begun.start_step)
            has_teacher |= bool(self.candidates) and plan.first_candidate_step is not None and "mode" not in changed
        return plan.postponed(step, has_teacher=has_teacher) if step > 0 else plan


def warmup_steps(config: Config) -> int:
    """When the last warm-up ends."""
    warmups = [config.optimizer.warmup_steps, config.optimizer.freeze_last_layer_steps]
    if "objective" not in config.replaced:
        warmups.append(config.objective.teacher_temperature_warmup_steps)
    return max(steps or 0 for steps in warmups)
