"""Lengths that do not go together: warm-ups, cool-down, cosine and the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bigrun.choices import is_constant
from bigrun.options import NoEffect

if TYPE_CHECKING:
    from bigrun.rules import EngineConfig

__all__ = ["schedule_problems", "schedule_warnings"]

WARMUPS = ("optimizer.warmup_steps", "objective.teacher_temperature_warmup_steps", "optimizer.freeze_last_layer_steps")


def schedule_problems(config: EngineConfig) -> Iterator[tuple[str, str]]:
    """What is wrong between the schedules and the run's length: (TOML path, message)."""
    total = config.run.max_steps
    for path in WARMUPS:
        table, name = path.split(".")
        steps = getattr(getattr(config, table), name)
        if total is not None and steps > total:
            yield path, f"{steps} steps, but the run has run.max_steps = {total}; steps are optimizer steps"
    if total is None and config.schedule.trunc_extra_fraction > 0:
        yield (
            "schedule.trunc_extra_fraction",
            NoEffect("has no effect: an unlimited run (no run.max_steps) has no cosine"),
        )
    yield from _cooldown_problems(config)
    yield from _dead_ends(config)


def _cooldown_problems(config: EngineConfig) -> Iterator[tuple[str, str]]:
    steps, total, path = config.schedule.cooldown_steps, config.run.max_steps, "schedule.cooldown_steps"
    if steps is None:
        return
    assert config.optimizer.warmup_steps is not None
    if total is None:
        yield path, f"a cool-down ends with the run: set run.max_steps, the step it begins after plus {steps}"
    elif steps + config.optimizer.warmup_steps > total:
        yield (
            path,
            f"{steps} steps of cool-down and optimizer.warmup_steps = {config.optimizer.warmup_steps} are longer than "
            f"the run, run.max_steps = {total}",
        )
    if config.schedule.form == "v1":
        yield path, "schedule.form = 'v1' falls along a cosine already: use 'v2', or no cool-down"
    if config.schedule.cosine_steps is not None:
        yield path, "schedule.cosine_steps makes the values fall already: remove one of the two"
    if config.optimizer.lr_end_fraction == 1:
        yield path, NoEffect("has no effect: optimizer.lr_end_fraction = 1 leaves nothing to fall")


def _dead_ends(config: EngineConfig) -> Iterator[tuple[str, str]]:
    """Ends to which nothing goes."""
    if not is_constant(config) or config.schedule.cosine_steps is not None:
        return
    unlimited = config.run.max_steps is None
    why = "an unlimited run (no run.max_steps) has no end" if unlimited else "only learning rates fall in a cool-down"
    if config.optimizer.weight_decay_end is not None:
        yield "optimizer.weight_decay_end", NoEffect(f"has no effect: {why}")
    if config.teacher.momentum_end != config.teacher.momentum:
        yield "teacher.momentum_end", NoEffect(f"has no effect: {why}")


def schedule_warnings(config: EngineConfig) -> Iterator[str]:
    """What is allowed but worth knowing."""
    total, momentum, cosine = config.run.max_steps, config.teacher.momentum, config.schedule.cosine_steps
    assert momentum is not None
    assert config.optimizer.warmup_steps is not None
    if total is not None and momentum < 1 and 1 / (1 - momentum) > total:
        yield (
            f"teacher.momentum = {momentum:.6g} averages over {1 / (1 - momentum):,.0f} steps, longer than the run: "
            "the teacher stays near its initialisation"
        )
    if total is not None and cosine is not None and config.optimizer.warmup_steps + cosine > total:
        yield (
            f"schedule.cosine_steps = {cosine}: the run ends before it, after {total} steps with "
            f"{config.optimizer.warmup_steps} of warm-up"
        )
    beta2 = config.optimizer.betas[1]
    if config.data.effective_batch < 256 and beta2 < 0.999:
        yield (
            f"optimizer.betas: beta2 = {beta2:g} averages squared gradients over {1 / (1 - beta2):.0f} steps; those of "
            "less than 256 images are noisy: use 0.999"
        )
