"""What the run's header says of the plan."""

from __future__ import annotations

from collections.abc import Iterator

from bigrun_gram.config import GramConfig
from bigrun_gram.plan import SHORTEST, Plan
from bigrun_gram.state import State

__all__ = ["plan_lines"]


def plan_lines(config: GramConfig, state: State, max_steps: int | None, *, is_late: bool) -> Iterator[str]:
    """Lines of text; `is_late`: the run had begun when the plugin was added."""
    plan = state.plan
    if plan is None:
        why = (
            "mode = 'off'"
            if config.mode == "off"
            else f"a run of fewer than {SHORTEST:,} steps does without; start_step or snapshot_step switches it on"
        )
        yield f"gram         off: {why}"
        return
    yield (
        f"gram         {source(config, plan, state)}; loss from step {plan.start_step}, weight {plan.weight} "
        f"after {plan.ramp_steps} steps; {refreshes(plan)}"
    )
    if config.choose_by is not None and state.taken_at_step is None:
        yield (
            f"gram         the best is that of the highest {config.choose_by}, if whoever records it does so in the "
            "step of every candidate; else the choice is made without labels"
        )
    if config.mode == "ema":
        yield "warning      mode = 'ema' compares with the teacher of the moment, which decays with the student"
    if is_late and config.mode == "snapshot" and state.taken_at_step is None:
        yield (
            "warning      this run began without gram-anchoring: its Gram teacher is not older than the run is now; "
            "an earlier checkpoint can be had with mode = 'ckpt'"
        )
    if max_steps is not None and plan.start_step > max_steps:
        yield f"warning      the Gram loss has no part in this run, which ends at step {max_steps}"


def source(config: GramConfig, plan: Plan, state: State) -> str:
    if config.mode == "ema":
        return "the moving teacher"
    if config.mode == "ckpt" and (not state.refreshes or state.checkpoint != config.checkpoint):
        return f"teacher from {config.checkpoint}"
    if state.taken_at_step is not None:
        return f"teacher taken at step {state.taken_at_step}"
    if plan.snapshot_step is not None:
        return f"teacher to be taken at step {plan.snapshot_step}"
    return (
        f"teacher: the best of those of steps {plan.first_candidate_step}, every {plan.candidates_every_steps}, "
        f"to {plan.last_candidate()}"
    )


def refreshes(plan: Plan) -> str:
    if plan.max_refreshes == 0:
        return "no refresh"
    most = "without limit" if plan.max_refreshes is None else f"{plan.max_refreshes} at most"
    return f"refresh after step {plan.first_refresh_step}, then every {plan.refresh_every_steps} steps, {most}"
