"""[schedule]: the form that every schedule has, and the cool-down."""

from __future__ import annotations

from typing import Literal

import attrs

from bigrun.options import at_least, between, option

__all__ = ["ScheduleSection"]


@attrs.frozen
class ScheduleSection:
    """The form of the schedules, and the cool-down at the end of a constant one [spec 7.4]."""

    form: Literal["v2", "v1"] = option(
        "v2",
        help="Both are a warm-up and half a cosine; v1 is the form of DINOv2, v2 that of DINOv3: they count the ends "
        "of both differently, and the learning-rate rule scales the end in v2 only.",
    )
    cosine_steps: int | None = option(
        None,
        check=at_least(1),
        effective=lambda schedule: schedule.form == "v2",
        otherwise="schedule.form is 'v1', whose cosine lasts until the end of the run",
        help="Length of the cosine, after which values stay at their end; absent: the rest of the run.",
    )
    trunc_extra_fraction: float = option(
        0.0,
        check=between(0, 1),
        effective=lambda schedule: schedule.form == "v1",
        otherwise="schedule.form is 'v2', whose cosine is not cut",
        help="The cosine is made longer by this and cut where the run ends, so that values still fall there.",
    )
    cooldown_steps: int | None = option(
        None,
        check=at_least(1),
        help="Learning rates stay constant and fall in so many steps before run.max_steps; all else stays constant.",
    )
    cooldown_form: Literal["cosine", "linear", "sqrt"] = option(
        "cosine",
        effective=lambda schedule: schedule.cooldown_steps is not None,
        otherwise="schedule.cooldown_steps is absent",
        help="How they fall: half a cosine, a line, or 1 - sqrt (arXiv 2405.18392).",
    )
