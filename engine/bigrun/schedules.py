"""Values that change with the step: learning rates, weight decay, temperature, momentum.

Every schedule is a function of the optimizer step alone, never of the number of micro-batches behind it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from bigrun.choices import is_constant
from bigrun.errors import UsageError
from bigrun.schedule_forms import Schedule
from bigrun.values import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from bigrun.rules import EngineConfig
    from bigrun.sections import Optimizer

__all__ = ["Schedule", "Schedules", "peak_learning_rate", "training_schedules"]


class Schedules:
    """The run's schedules by name, and their values at the current step."""

    def __init__(self) -> None:
        self.now: dict[str, float] = {}
        self._schedules: dict[str, Callable[[int], float]] = {}
        self._adjustments: dict[str, list[Callable[[int, float], float]]] = {}

    def add(self, name: str, schedule: Callable[[int], float]) -> None:
        """Register a function of the step; its value is there from the next `apply` on.

        Raises:
            UsageError: the name is taken.
        """
        if name in self._schedules:
            raise UsageError(f"two schedules are named {name!r}: each needs a name of its own")
        self._schedules[name] = schedule

    def adjust(self, name: str, change: Callable[[int, float], float]) -> None:
        """Pass a schedule's value through `change(step, value)` from the next `apply` on.

        Several changes of one schedule apply in the order in which they were registered, each to the result of the
        one before.

        Raises:
            UsageError: there is no schedule of that name.
        """
        if name not in self._schedules:
            known = ", ".join(self._schedules) or "none"
            raise UsageError(f"no schedule is named {name!r}{did_you_mean(name, self._schedules)}; there are: {known}")
        self._adjustments.setdefault(name, []).append(change)

    def apply(self, step: int) -> None:
        """Evaluate every schedule at a step, counted from 1, and its adjustments, into `now`."""
        self.now = self.at(step)

    def at(self, step: int) -> dict[str, float]:
        """The value of every schedule at a step, counted from 1, adjustments included."""
        return {name: self._evaluate(name, step) for name in self._schedules}

    def _evaluate(self, name: str, step: int) -> float:
        value = self._schedules[name](step)
        for change in self._adjustments.get(name, ()):
            value = change(step, value)
        return value

    def __contains__(self, name: str) -> bool:
        """Whether there is a schedule of that name: an objective of a plugin's may have no use for some."""
        return name in self._schedules

    def __getitem__(self, name: str) -> float:
        """The value at the current step. Raises KeyError before the first `apply`."""
        return self.now[name]


def peak_learning_rate(optimizer: Optimizer, effective_batch: int) -> float:
    """`base_lr` scaled to the effective batch B by `lr_rule`.

    sqrt-1024 is the rule of DINOv2 and DINOv3, whose base is quoted for a quarter of B = 1024; linear-256 is
    arXiv 1706.02677.
    """
    match optimizer.lr_rule:
        case "sqrt-1024":
            return optimizer.base_lr * 4 * math.sqrt(effective_batch / 1024)
        case "linear-256":
            return optimizer.base_lr * effective_batch / 256
        case "none":
            return optimizer.base_lr


TABLES = {
    "student_temperature": "objective",
    "teacher_temperature": "objective",
    "local_weight": "objective",
    "teacher_momentum": "teacher",
}
"""Schedules that are gone where a plugin's objective replaces the table they are of."""


def training_schedules(config: EngineConfig) -> dict[str, Schedule]:
    """The engine's schedules by name. Values that a rule chooses must be chosen already."""
    optimizer, objective, teacher = config.optimizer, config.objective, config.teacher
    assert optimizer.warmup_steps is not None
    assert optimizer.freeze_last_layer_steps is not None
    assert objective.teacher_temperature_warmup_steps is not None
    assert teacher.momentum is not None
    assert teacher.momentum_end is not None
    decay = optimizer.weight_decay
    decay_end = decay if optimizer.weight_decay_end is None else optimizer.weight_decay_end
    temperature = objective.teacher_temperature
    course = config.schedule
    total = None if is_constant(config) else config.run.max_steps  # of all that does not fall in a cool-down
    learning_rate = _learning_rate(config)

    def varying(start: float, end: float) -> Schedule:
        return Schedule(start, start, end, 0, total, course=course)

    return {
        "learning_rate": learning_rate,
        "last_layer_learning_rate": attrs.evolve(learning_rate, zero_steps=optimizer.freeze_last_layer_steps),
        "weight_decay": varying(decay, decay_end),
        "student_temperature": varying(objective.student_temperature, objective.student_temperature),
        "teacher_temperature": Schedule(
            objective.teacher_temperature_start,
            temperature,
            temperature,
            objective.teacher_temperature_warmup_steps,
            total,
            course=course,
        ),
        "teacher_momentum": varying(teacher.momentum, teacher.momentum_end),
        "local_weight": varying(objective.local_weight, objective.local_weight),
    }


def _learning_rate(config: EngineConfig) -> Schedule:
    """The one value that falls in a cool-down. `lr_rule` scales its end in form v2, and in form v1 its peak alone."""
    optimizer, course = config.optimizer, config.schedule
    assert optimizer.warmup_steps is not None
    peak = peak_learning_rate(optimizer, config.data.effective_batch)
    end = optimizer.lr_end_fraction * (peak if course.form == "v2" else optimizer.base_lr)
    return Schedule(
        0.0,
        peak,
        end,
        optimizer.warmup_steps,
        config.run.max_steps,
        course=course,
        cosine_warmup=optimizer.warmup_form == "cosine",
    )
