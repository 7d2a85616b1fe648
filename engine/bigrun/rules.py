"""All tables of the engine together: what is refused across them, and what is allowed but worth knowing.

Values that are left open are chosen in `choices.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import attrs

from bigrun.architectures import architecture_warnings
from bigrun.choices import RULES, Choice, choose
from bigrun.data.channels import check_channels
from bigrun.options import NoEffect
from bigrun.prototypes import prototype_problems, prototype_warnings
from bigrun.schedule_checks import schedule_problems, schedule_warnings
from bigrun.sections import (
    Data,
    Hardware,
    Init,
    Masking,
    Model,
    Objective,
    Optimizer,
    Parallel,
    RunSection,
    ScheduleSection,
    Teacher,
    Views,
)

__all__ = ["RULES", "Choice", "EngineConfig", "choose", "cross_problems", "warnings"]


@attrs.frozen
class EngineConfig:
    """All tables of the engine."""

    run: RunSection = attrs.field(factory=RunSection)
    data: Data = attrs.field(factory=Data)
    views: Views = attrs.field(factory=Views)
    model: Model = attrs.field(factory=Model)
    objective: Objective = attrs.field(factory=Objective)
    masking: Masking = attrs.field(factory=Masking)
    teacher: Teacher = attrs.field(factory=Teacher)
    optimizer: Optimizer = attrs.field(factory=Optimizer)
    schedule: ScheduleSection = attrs.field(factory=ScheduleSection)
    init: Init = attrs.field(factory=Init)
    hardware: Hardware = attrs.field(factory=Hardware)
    parallel: Parallel = attrs.field(factory=Parallel)


def cross_problems(config: EngineConfig) -> Iterator[tuple[str, str]]:
    """What is wrong between tables of a configuration without open values: (TOML path, message)."""
    patch = config.model.patch_size_px
    for name, size in config.views.sides():
        if size % patch:
            yield f"views.{name}", f"{size} is not a multiple of model.patch_size_px = {patch}"
    for path, text in check_channels(config.views, config.model.in_channels):
        yield f"views.{path}", text
    yield from dead_problems(config)
    yield from koleo_problems(config)
    yield from init_problems(config)
    yield from schedule_problems(config)
    yield from prototype_problems(config)


def dead_problems(config: EngineConfig) -> Iterator[tuple[str, str]]:
    """Options that are set and have no effect because of another table."""
    if config.objective.ibot_weight == 0:
        for field in attrs.fields(Masking):
            if getattr(config.masking, field.name) != field.default:
                yield f"masking.{field.name}", NoEffect("has no effect because objective.ibot_weight = 0: remove it")
    if config.views.local_crops == 0 and config.objective.local_weight != 1:
        yield "objective.local_weight", NoEffect("has no effect because views.local_crops = 0: remove it")


def koleo_problems(config: EngineConfig) -> Iterator[tuple[str, str]]:
    group, micro = config.objective.koleo_group, config.data.micro_batch
    if config.objective.koleo_weight == 0 or group is None or micro is None:
        return
    if micro % group:
        yield "objective.koleo_group", f"{group} does not divide data.micro_batch = {micro}"
    elif group <= config.objective.koleo_neighbours:
        yield (
            "objective.koleo_group",
            f"groups of {group} leave no {config.objective.koleo_neighbours} neighbours (data.micro_batch = {micro}): "
            "use another micro-batch, or objective.koleo_weight = 0",
        )


def koleo_warnings(config: EngineConfig) -> Iterator[str]:
    group, micro = config.objective.koleo_group, config.data.micro_batch
    possible = max(size for size in range(1, 17) if config.data.effective_batch % size == 0)
    if config.objective.koleo_weight > 0 and group == micro and group is not None and group < possible:
        yield (
            f"objective.koleo_group = {group}: data.micro_batch holds no more, and published runs have 16; with "
            "another micro-batch set it to stay with the same objective"
        )


def init_problems(config: EngineConfig) -> Iterator[tuple[str, str]]:
    total, steps = config.run.max_steps, config.init.freeze_backbone_steps
    if total is not None and steps is not None and steps > total:
        yield "init.freeze_backbone_steps", f"{steps} steps, but the run has run.max_steps = {total}"


def warnings(config: EngineConfig, replaced: Collection[str] = ()) -> Iterator[str]:
    """What is allowed but worth knowing; nothing about `replaced` tables, which a plugin's objective does not read."""
    if "model" not in replaced:
        yield from architecture_warnings(config.model)
    if "objective" not in replaced:
        yield from prototype_warnings(config)
        yield from koleo_warnings(config)
    yield from (text for text in schedule_warnings(config) if text.partition(".")[0] not in replaced)
