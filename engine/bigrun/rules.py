"""Values that the engine chooses when the preset leaves them open, and checks across tables.

A rule turns a `None` into a number and says why; `bigrun check` prints every choice. Numbers come from the recipe's
published runs, scaled to small projects (docs/explanation/objective.md names the sources).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import attrs

from bigrun.data.channels import check_channels
from bigrun.sections import Data, Hardware, Model, Objective, Optimizer, RunSection, Teacher, Views

__all__ = ["Choice", "EngineConfig", "choose", "cross_problems", "warnings"]


@attrs.frozen
class EngineConfig:
    """All tables of the engine."""

    run: RunSection = attrs.field(factory=RunSection)
    data: Data = attrs.field(factory=Data)
    views: Views = attrs.field(factory=Views)
    model: Model = attrs.field(factory=Model)
    objective: Objective = attrs.field(factory=Objective)
    teacher: Teacher = attrs.field(factory=Teacher)
    optimizer: Optimizer = attrs.field(factory=Optimizer)
    hardware: Hardware = attrs.field(factory=Hardware)


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
        if getattr(part, name) is None:
            value, why = rule(config)
            config = attrs.evolve(config, **{table: attrs.evolve(part, **{name: value})})
            choices.append(Choice(path, value, why))
    return config, choices


def _micro_batch(config: EngineConfig) -> tuple[int, str]:
    return config.data.effective_batch, "the whole effective batch at once"


def _prototypes(config: EngineConfig) -> tuple[int, str]:
    rows = config.views.global_crops * config.data.effective_batch
    value = 2 ** round(math.log2(16 * rows))
    return value, f"power of two nearest to 16 x {rows} rows per step, as in published runs (K/n 16 to 32)"


def _warmup(config: EngineConfig) -> tuple[int, str]:
    total = config.run.max_steps
    if total is None:
        return 2500, "unlimited run"
    if total >= 5000:
        return max(round(0.1 * total), 500), "10 % of the run, at least 500 steps"
    return round(0.1 * total), "10 % of the run"


def _temperature_warmup(config: EngineConfig) -> tuple[int, str]:
    total = config.run.max_steps
    return (10_000, "unlimited run") if total is None else (round(0.2 * total), "20 % of the run")


def _freeze(config: EngineConfig) -> tuple[int, str]:
    total = config.run.max_steps
    return (500, "unlimited run") if total is None else (round(0.01 * total), "1 % of the run")


def _momentum(config: EngineConfig) -> tuple[float, str]:
    # 2048 / (1 - 0.992) = 256,000 images: the averaging horizon of the published ViT-L recipe.
    horizon = 256_000 / config.data.effective_batch
    if config.run.max_steps is not None:
        horizon = min(horizon, config.run.max_steps / 50)
    horizon = max(horizon, 10.0)
    return 1 - 1 / horizon, f"averages over {horizon:.0f} steps: 256,000 images, at most 2 % of the run, at least 10"


def _momentum_end(config: EngineConfig) -> tuple[float, str]:
    if config.run.max_steps is None:
        assert config.teacher.momentum is not None
        return config.teacher.momentum, "unlimited run: constant"
    return 1.0, "cosine to 1"


# In this order: the end of the momentum follows its start.
RULES = {
    "data.micro_batch": _micro_batch,
    "objective.prototypes": _prototypes,
    "objective.teacher_temperature_warmup_steps": _temperature_warmup,
    "teacher.momentum": _momentum,
    "teacher.momentum_end": _momentum_end,
    "optimizer.warmup_steps": _warmup,
    "optimizer.freeze_last_layer_steps": _freeze,
}


def prototypes_per_row(config: EngineConfig) -> float:
    assert config.objective.prototypes is not None
    return config.objective.prototypes / (config.views.global_crops * config.data.effective_batch)


def cross_problems(config: EngineConfig) -> Iterator[tuple[str, str]]:
    """What is wrong between tables of a configuration without open values: (TOML path, message)."""
    sizes = ["global_size_px"] + (["local_size_px"] if config.views.local_crops else [])
    for name in sizes:
        size, patch = getattr(config.views, name), config.model.patch_size_px
        if size % patch:
            yield f"views.{name}", f"{size} is not a multiple of model.patch_size_px = {patch}"
    for path, text in check_channels(config.views, config.model.in_channels):
        yield f"views.{path}", text
    total = config.run.max_steps
    for path in (
        "optimizer.warmup_steps",
        "objective.teacher_temperature_warmup_steps",
        "optimizer.freeze_last_layer_steps",
    ):
        table, name = path.split(".")
        steps = getattr(getattr(config, table), name)
        if total is not None and steps > total:
            yield path, f"{steps} steps, but the run has run.max_steps = {total}; steps are optimizer steps"
    rows = config.views.global_crops * config.data.effective_batch
    if prototypes_per_row(config) > 128:
        yield (
            "objective.prototypes",
            f"{config.objective.prototypes} prototypes for {rows} rows per step: K/n = "
            f"{prototypes_per_row(config):.0f}, targets can never become sharp above 128; "
            f"use at most {128 * rows} or a larger effective batch",
        )
    if total is None and config.optimizer.weight_decay_end is not None:
        yield "optimizer.weight_decay_end", "has no effect: an unlimited run (no run.max_steps) has no end"


def warnings(config: EngineConfig) -> Iterator[str]:
    """What is allowed but worth knowing."""
    ratio = prototypes_per_row(config)
    if 64 < ratio <= 128:
        yield f"objective.prototypes: K/n = {ratio:.0f} is high; published runs have 16 to 32"
    if config.data.effective_batch < 64:
        yield (
            f"data.effective_batch = {config.data.effective_batch}: below 64 images Sinkhorn-Knopp balances few rows; "
            "expect softer targets"
        )
