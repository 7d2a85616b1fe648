"""[objective]: head, targets and losses."""

from __future__ import annotations

from typing import Literal

import attrs

from bigrun.options import above, at_least, between, option

__all__ = ["Objective"]


@attrs.frozen
class Objective:
    """DINO on class tokens with Sinkhorn-Knopp targets [spec 4, 5]."""

    head_hidden: int = option(2048, check=between(1, 2**20), fixed=True, help="Hidden width of the projection head.")
    head_bottleneck: int = option(256, check=between(1, 2**20), fixed=True, help="Width of the normalised bottleneck.")
    prototypes: int | None = option(
        None, check=between(2, 2**24), rule="prototypes", fixed=True, help="Prototypes K of the DINO head."
    )
    normalise_prototypes: bool = option(
        False,
        fixed=True,
        help="Logits are cosines: a prototype counts by its direction. For short runs with few prototypes.",
    )
    student_temperature: float = option(0.1, check=above(0), help="Temperature of the student's softmax.")
    teacher_temperature: float = option(0.07, check=above(0), help="Temperature of the teacher after its warm-up.")
    teacher_temperature_start: float = option(
        0.04, check=above(0), help="Temperature of the teacher at the first step."
    )
    teacher_temperature_warmup_steps: int | None = option(
        None, check=at_least(0), rule="teacher-temperature-warmup", help="Linear warm-up of the teacher's temperature."
    )
    sinkhorn_iterations: int = option(3, check=between(1, 1000), help="Rounds of Sinkhorn-Knopp.")
    sinkhorn_scope: Literal["effective", "micro"] = option(
        "effective", help="Rows that Sinkhorn-Knopp balances: the effective batch, or each micro-batch alone."
    )
    local_weight: float = option(1.0, check=at_least(0), help="Weight of the local crops' share of the DINO loss.")
