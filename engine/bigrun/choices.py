"""Values that the engine chooses when the preset leaves them open.

A rule turns a `None` into a number and says why; `bigrun check` prints every choice. Numbers come from the recipe's
published runs, scaled to small projects (docs/explanation/objective.md names the sources). A rule sees the
configuration alone, so that a preset means the same network and the same schedules on every machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from bigrun.prototypes import balanced_rows

if TYPE_CHECKING:
    from bigrun.rules import EngineConfig

__all__ = ["RULES", "Choice", "choose", "is_constant"]


@attrs.frozen
class Choice:
    """A value that a rule chose."""

    path: str
    value: Any
    why: str


def choose(config: EngineConfig) -> tuple[EngineConfig, list[Choice]]:
    """Fill every open value; the result has no `None` that a rule stands for."""
    choices: list[Choice] = []
    for path, rule in RULES.items():
        table, name = path.split(".")
        part = getattr(config, table)
        effective = attrs.fields_dict(type(part))[name].metadata["effective"]
        if getattr(part, name) is None and (effective is None or effective(part)):
            value, why = rule(config)
            config = attrs.evolve(config, **{table: attrs.evolve(part, **{name: value})})
            choices.append(Choice(path, value, why))
    return config, choices


def is_constant(config: EngineConfig) -> bool:
    """Whether values stay as they are after their warm-ups: the run has no end, or only a cool-down before it.

    Only the learning rates fall in a cool-down, so that it can begin at any checkpoint of a run without end.
    """
    return config.run.max_steps is None or config.schedule.cooldown_steps is not None


def _micro_batch(config: EngineConfig) -> tuple[int, str]:
    return config.data.effective_batch, "the whole effective batch at once"


def _prototypes(config: EngineConfig) -> tuple[int, str]:
    rows = balanced_rows(config)
    value = 1 << (16 * rows - 1).bit_length()
    return value, f"power of two from 16 to 32 times the {rows} rows per step, as in published runs"


def _ibot_prototypes(config: EngineConfig) -> tuple[int, str]:
    # Published runs have 98,304 for 262,144 and as many as for the class token in smaller ones; a step has far more
    # masked patches than prototypes either way.
    assert config.objective.prototypes is not None
    value = min(max(config.objective.prototypes // 2, 4096), config.objective.prototypes, 8192)
    return value, "half of objective.prototypes, from 4096 to 8192, but never more than objective.prototypes"


def _koleo_group(config: EngineConfig) -> tuple[int, str]:
    micro = config.data.micro_batch
    assert micro is not None
    group = max(size for size in range(1, 17) if micro % size == 0)
    return group, f"largest group of at most 16 images that divides the micro-batch of {micro}"


def _share(config: EngineConfig, share: float, without_end: int) -> tuple[int, str]:
    """A share of the run. Before a cool-down the number of a run without end if it fits: the two runs are the same."""
    total, cooldown = config.run.max_steps, config.schedule.cooldown_steps
    if total is None:
        return without_end, "unlimited run"
    if cooldown is not None and without_end <= total - cooldown:
        return without_end, "as in an unlimited run, until the cool-down"
    return round(share * total), f"{100 * share:.0f} % of the run"


def _warmup(config: EngineConfig) -> tuple[int, str]:
    steps, why = _share(config, 0.1, 2500)
    total = config.run.max_steps
    if total is not None and steps < 500 <= 0.2 * total:
        return 500, "10 % of the run, at least 500 steps where that is at most 20 %"
    return steps, why


def _temperature_warmup(config: EngineConfig) -> tuple[int, str]:
    return _share(config, 0.2, 10_000)


def _freeze(config: EngineConfig) -> tuple[int, str]:
    return _share(config, 0.01, 500)


def _freeze_backbone(config: EngineConfig) -> tuple[int, str]:
    if config.init.heads:
        return 0, "the heads come with the backbone"
    assert config.optimizer.warmup_steps is not None
    return config.optimizer.warmup_steps // 2, "half of optimizer.warmup_steps: first the new heads learn"


def _momentum(config: EngineConfig) -> tuple[float, str]:
    # 2048 / (1 - 0.992) = 256,000 images: the averaging horizon of the published ViT-L recipe.
    steps, why = 256_000 / config.data.effective_batch, "256,000 images"
    total = config.run.max_steps
    if total is not None and not is_constant(config) and total / 50 < steps:
        steps, why = total / 50, f"2 % of the run; 256,000 images would be {steps:.0f}"
    if steps < 10:
        steps, why = 10.0, "never fewer"
    return 1 - 1 / steps, f"averages over {steps:.0f} steps, {why}"


def _momentum_end(config: EngineConfig) -> tuple[float, str]:
    assert config.teacher.momentum is not None
    if config.run.max_steps is None:
        return config.teacher.momentum, "unlimited run: constant"
    if is_constant(config):
        return config.teacher.momentum, "constant: only learning rates fall in a cool-down"
    if config.schedule.cosine_steps is not None:
        return config.teacher.momentum, "constant: a teacher at 1 would stand still after schedule.cosine_steps"
    return 1.0, "cosine to 1"


# In this order: a rule may read what the rules before it chose.
RULES = {
    "data.micro_batch": _micro_batch,
    "objective.prototypes": _prototypes,
    "objective.ibot_prototypes": _ibot_prototypes,
    "objective.koleo_group": _koleo_group,
    "objective.teacher_temperature_warmup_steps": _temperature_warmup,
    "teacher.momentum": _momentum,
    "teacher.momentum_end": _momentum_end,
    "optimizer.warmup_steps": _warmup,
    "optimizer.freeze_last_layer_steps": _freeze,
    "init.freeze_backbone_steps": _freeze_backbone,
}
