"""[objective]: heads, targets and losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import attrs

from bigrun.options import at_least, between, option

__all__ = ["Objective"]


def _ibot(default: Any, *, help: str, check: Callable[[Any], str | None], rule: str | None = None) -> Any:
    """An option of the head on patches; without iBOT there is none."""
    return option(
        default,
        check=check,
        rule=rule,
        fixed=True,
        shapes=True,
        effective=lambda objective: objective.ibot_weight > 0,
        otherwise="objective.ibot_weight = 0",
        help=help,
    )


@attrs.frozen
class Objective:
    """DINO on class tokens, iBOT on masked patches, KoLeo, and how the teacher's targets are made [spec 4, 5]."""

    dino_weight: float = option(1.0, check=between(0, 1e6), help="Weight of the DINO loss on class tokens.")
    local_weight: float = option(1.0, check=between(0, 1e6), help="Weight of the local crops' share of the DINO loss.")
    ibot_weight: float = option(
        1.0,
        check=between(0, 1e6),
        fixed=True,
        shapes=bool,
        help="Weight of the iBOT loss on masked patches; 0: no masks, no head.",
    )
    koleo_weight: float = option(
        0.1, check=between(0, 1e6), help="Weight of the KoLeo loss, which keeps class tokens apart; 0: off."
    )
    koleo_group: int | None = option(
        None,
        check=at_least(2),
        rule="koleo-group",
        effective=lambda objective: objective.koleo_weight > 0,
        otherwise="objective.koleo_weight = 0",
        help="Images among which KoLeo seeks neighbours; divides the micro-batch.",
    )
    koleo_neighbours: int = option(
        1,
        check=at_least(1),
        effective=lambda objective: objective.koleo_weight > 0,
        otherwise="objective.koleo_weight = 0",
        help="KoLeo takes the mean over so many nearest neighbours.",
    )
    head_layers: int = option(
        3, check=between(1, 10), fixed=True, shapes=True, help="Linear layers in front of the bottleneck."
    )
    head_hidden: int = option(
        2048,
        check=between(1, 2**20),
        fixed=True,
        shapes=True,
        effective=lambda objective: objective.head_layers > 1,
        otherwise="objective.head_layers = 1 has no hidden layer",
        help="Hidden width of the projection heads.",
    )
    head_bottleneck: int = option(
        256, check=between(1, 2**20), fixed=True, shapes=True, help="Width of their normalised bottleneck."
    )
    prototypes: int | None = option(
        None, check=between(2, 2**24), rule="prototypes", fixed=True, shapes=True, help="Prototypes K of the DINO head."
    )
    ibot_head_hidden: int | None = _ibot(
        None, check=between(1, 2**20), help="Hidden width of the head on patches; absent: head_hidden."
    )
    ibot_head_bottleneck: int | None = _ibot(
        None, check=between(1, 2**20), help="Width of its bottleneck; absent: head_bottleneck."
    )
    ibot_prototypes: int | None = _ibot(
        None, check=between(2, 2**24), rule="ibot-prototypes", help="Prototypes of the head on patches."
    )
    normalise_prototypes: bool = option(
        False,
        fixed=True,
        help="Logits are cosines: a prototype counts by its direction. For short runs with few prototypes.",
    )
    student_temperature: float = option(0.1, check=between(1e-3, 1e3), help="Temperature of the student's softmax.")
    teacher_temperature: float = option(
        0.07, check=between(1e-3, 1e3), help="Temperature of the teacher after its warm-up."
    )
    teacher_temperature_start: float = option(
        0.04,
        check=between(1e-3, 1e3),
        effective=lambda objective: objective.teacher_temperature_warmup_steps != 0,
        otherwise="objective.teacher_temperature_warmup_steps = 0",
        help="Temperature of the teacher at the first step.",
    )
    teacher_temperature_warmup_steps: int | None = option(
        None, check=at_least(0), rule="teacher-temperature-warmup", help="Linear warm-up of the teacher's temperature."
    )
    centring: Literal["sinkhorn", "softmax"] = option(
        "sinkhorn",
        fixed=True,
        shapes=True,
        help="What balances the teacher's targets: Sinkhorn-Knopp over the step, or a moving average of its logits.",
    )
    sinkhorn_iterations: int = option(
        3,
        check=between(1, 1000),
        effective=lambda objective: objective.centring == "sinkhorn",
        otherwise="objective.centring is not 'sinkhorn'",
        help="Rounds of Sinkhorn-Knopp.",
    )
    sinkhorn_scope: Literal["effective", "micro"] = option(
        "effective",
        effective=lambda objective: objective.centring == "sinkhorn",
        otherwise="objective.centring is not 'sinkhorn'",
        help="Rows that Sinkhorn-Knopp balances: the effective batch, or each micro-batch alone.",
    )
    queue_steps: int = option(
        0,
        check=between(0, 10_000),
        fixed=True,
        shapes=True,
        effective=lambda objective: objective.centring == "sinkhorn" and objective.sinkhorn_scope == "effective",
        otherwise="only Sinkhorn-Knopp over the effective batch has a queue",
        help="Class tokens of so many past steps take part in the balance; for less than K / 64 rows a step.",
    )
    centre_momentum: float = option(
        0.9,
        check=between(0, 0.9999),
        effective=lambda objective: objective.centring == "softmax",
        otherwise="objective.centring is not 'softmax'",
        help="Momentum of the moving average of the teacher's logits.",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.koleo_group is not None and self.koleo_neighbours >= self.koleo_group:
            yield "koleo_neighbours", f"{self.koleo_neighbours} must be less than koleo_group = {self.koleo_group}"
        if self.dino_weight == 0 and self.ibot_weight == 0:
            yield "dino_weight", "no loss with a teacher is left: dino_weight and ibot_weight are both 0"
