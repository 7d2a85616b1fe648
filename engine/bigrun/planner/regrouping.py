"""KoLeo's groups beside another micro-batch, from which a rule chooses their size. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from bigrun.same_objective import KOLEO_GROUP, koleo_group_beside

if TYPE_CHECKING:
    from bigrun.config import Config

__all__ = ["KOLEO_GROUP", "Regrouping", "regrouping"]


@attrs.frozen
class Regrouping:
    """Groups of another size, which are another objective."""

    own: int
    """Of the run as it is."""
    chosen: int
    """By the rule, beside the other micro-batch."""
    can_stay: bool
    """Whether its own groups divide the other micro-batch: then it stays the same objective with `own` set."""


def regrouping(config: Config, micro_batch: int) -> Regrouping | None:
    """What another micro-batch makes of the groups; None where they stay: the preset sets their size, nothing depends
    on it, or the rule chooses the same."""
    own = config.objective.koleo_group
    is_chosen = "objective" not in config.replaced and KOLEO_GROUP not in config.explicit
    if not is_chosen or own is None or config.objective.koleo_weight <= 0:
        return None
    chosen = koleo_group_beside(config, micro_batch)
    return None if chosen == own else Regrouping(own, chosen, micro_batch % own == 0)
