"""The course of one value over the steps of a run: a warm-up, then half a cosine, a constant, or a cool-down."""

from __future__ import annotations

import math

import attrs

from bigrun.sections import ScheduleSection

__all__ = ["Schedule"]


@attrs.frozen
class Schedule:
    """From `start` to `peak` in a warm-up, then to `end`, then constant [spec 7.4].

    With T = `total_steps`, W = `warmup_steps` and n = T - W, or in form v2 n = `course.cosine_steps`:

    - Form v2: step 1 has `start`, step W + 1 is the first with `peak`, step W + n the first with `end`.
    - Form v1: step 1 has `start`, steps W and W + 1 have `peak`, step T + 1 is the first with `end`, unless
      `course.trunc_extra_fraction` is above 0: then step T has it.
    - With a cool-down of N steps: `peak` until step T - N; step T is the first with `end`.

    Without T, and without `course.cosine_steps`, the run has no end and stays at `peak` (arXiv 2508.10104, section
    3.2, trains that way).
    """

    start: float
    peak: float
    end: float
    warmup_steps: int
    total_steps: int | None
    zero_steps: int = 0
    """The value is 0 for so many steps at the start, whatever the rest says."""
    course: ScheduleSection = attrs.field(factory=ScheduleSection)
    cosine_warmup: bool = False
    """The warm-up is half a cosine and not a line."""

    def __call__(self, step: int) -> float:
        """The value of a step, counted from 1."""
        t = step - 1
        if t < self.zero_steps:
            return 0.0
        if t < self.warmup_steps:
            return self.start + (self.peak - self.start) * self._risen(t)
        left = self._left(step)
        return self.peak if left == 1 else self.end + (self.peak - self.end) * left

    def _risen(self, t: int) -> float:
        """The share of the warm-up that is done, 0 to 1."""
        steps = self.warmup_steps if self.course.form == "v2" else self.warmup_steps - 1  # v1 counts its last value
        share = t / steps if steps else 0.0
        return 0.5 * (1 - math.cos(math.pi * share)) if self.cosine_warmup else share

    def _left(self, step: int) -> float:
        """What is left of the way from `peak` to `end`, 1 to 0."""
        course, total = self.course, self.total_steps
        t = step - 1 - self.warmup_steps
        if course.cooldown_steps is not None and total is not None:
            done = 1 - (total - step) / course.cooldown_steps
            return _cooldown(course.cooldown_form, min(max(done, 0.0), 1.0))
        if course.form == "v1":
            return 1.0 if total is None else _cosine_v1(t, total - self.warmup_steps, course.trunc_extra_fraction)
        if course.cosine_steps is not None:
            return _cosine_v2(t, course.cosine_steps)
        return 1.0 if total is None else _cosine_v2(t, total - self.warmup_steps)


def _cosine_v2(t: int, n: int) -> float:
    """Half a cosine in n values, the last of which is 0."""
    if t >= n:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * t / max(n - 1, 1)))


def _cosine_v1(t: int, n: int, extra: float) -> float:
    """Half a cosine in n values, of which 0 is the one after the last.

    With `extra` e: the first n of int((1 + e) n) values of a cosine from 1 to -1, both included, then shifted and
    scaled so that the first is 1 and the last 0.
    """
    if t >= n:
        return 0.0
    if extra == 0 or n == 1:
        return 0.5 * (1 + math.cos(math.pi * t / n))
    step = math.pi / (int((1 + extra) * n) - 1)
    last = math.cos(step * (n - 1))
    return (math.cos(step * t) - last) / (1 - last)


def _cooldown(form: str, done: float) -> float:
    """linear and 1 - sqrt: arXiv 2405.18392, section 3."""
    if form == "linear":
        return 1 - done
    return 1 - math.sqrt(done) if form == "sqrt" else 0.5 * (1 + math.cos(math.pi * done))
