"""Values that change with the step: learning rates, weight decay, temperature, momentum.

Every schedule is a function of the optimizer step alone, never of the number of micro-batches behind it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from bigrun.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bigrun.sections import Objective, Optimizer, RunSection, Teacher

__all__ = ["Schedule", "Schedules", "peak_learning_rate", "training_schedules"]


@attrs.frozen
class Schedule:
    """Linear from `start` to `peak`, then half a cosine to `end`, then constant.

    With T = `total_steps` and W = `warmup_steps`: step 1 has `start`, step W + 1 is the first with `peak`, step T
    the first with `end`. Without `total_steps` the run has no end and stays at `peak` (arXiv 2508.10104, section
    3.2, trains that way).
    """

    start: float
    peak: float
    end: float
    warmup_steps: int
    total_steps: int | None
    zero_steps: int = 0
    """The value is 0 for so many steps at the start, whatever the rest says."""

    def __call__(self, step: int) -> float:
        """The value of a step, counted from 1."""
        t = step - 1
        if t < self.zero_steps:
            return 0.0
        if t < self.warmup_steps:
            return self.start + (self.peak - self.start) * t / self.warmup_steps
        if self.total_steps is None:
            return self.peak
        if step > self.total_steps:
            return self.end
        intervals = max(self.total_steps - self.warmup_steps - 1, 1)
        cosine = math.cos(math.pi * (t - self.warmup_steps) / intervals)
        return self.end + 0.5 * (self.peak - self.end) * (1 + cosine)


class Schedules:
    """The run's schedules by name, and their values at the current step."""

    def __init__(self) -> None:
        self.now: dict[str, float] = {}
        self._schedules: dict[str, Callable[[int], float]] = {}

    def add(self, name: str, schedule: Callable[[int], float]) -> None:
        """Register a function of the step; its value is there from the next `apply` on.

        Raises:
            UsageError: the name is taken.
        """
        if name in self._schedules:
            raise UsageError(f"two schedules are named {name!r}: each needs a name of its own")
        self._schedules[name] = schedule

    def apply(self, step: int) -> None:
        """Evaluate every schedule at a step, counted from 1, into `now`."""
        self.now = {name: schedule(step) for name, schedule in self._schedules.items()}

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


def training_schedules(
    run: RunSection, optimizer: Optimizer, objective: Objective, teacher: Teacher, effective_batch: int
) -> dict[str, Schedule]:
    """The engine's schedules by name. Values that a rule chooses must be chosen already."""
    assert optimizer.warmup_steps is not None
    assert optimizer.freeze_last_layer_steps is not None
    assert objective.teacher_temperature_warmup_steps is not None
    assert teacher.momentum is not None
    assert teacher.momentum_end is not None
    total = run.max_steps
    peak = peak_learning_rate(optimizer, effective_batch)
    learning_rate = Schedule(0.0, peak, peak * optimizer.lr_end_fraction, optimizer.warmup_steps, total)
    decay = optimizer.weight_decay
    decay_end = decay if optimizer.weight_decay_end is None else optimizer.weight_decay_end
    student, temperature = objective.student_temperature, objective.teacher_temperature
    return {
        "learning_rate": learning_rate,
        "last_layer_learning_rate": attrs.evolve(learning_rate, zero_steps=optimizer.freeze_last_layer_steps),
        "weight_decay": Schedule(decay, decay, decay_end, 0, total),
        "student_temperature": Schedule(student, student, student, 0, None),
        "teacher_temperature": Schedule(
            objective.teacher_temperature_start,
            temperature,
            temperature,
            objective.teacher_temperature_warmup_steps,
            total,
        ),
        "teacher_momentum": Schedule(teacher.momentum, teacher.momentum, teacher.momentum_end, 0, total),
    }
