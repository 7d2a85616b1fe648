"""Micro-batches beside which the objective stays the same. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from bigrun.choices import RULES

if TYPE_CHECKING:
    from bigrun.rules import EngineConfig

__all__ = ["KOLEO_GROUP", "koleo_group_beside", "micro_batches", "micro_batches_fixed_by"]

KOLEO_GROUP = "objective.koleo_group"


def koleo_group_beside(config: EngineConfig, micro_batch: int) -> int:
    """The size of KoLeo's groups that the rule chooses beside another micro-batch."""
    other = attrs.evolve(config, data=attrs.evolve(config.data, micro_batch=micro_batch))
    value, _ = RULES[KOLEO_GROUP](other)
    return int(value)


def micro_batches_fixed_by(config: EngineConfig) -> str | None:
    """Why every other micro-batch would be another objective of the engine's; None where others are possible."""
    if config.objective.sinkhorn_scope == "micro":
        return 'objective.sinkhorn_scope = "micro" makes it part of the objective'
    return None


def micro_batches(config: EngineConfig, processes: int = 1) -> list[int]:
    """Sizes that leave the engine's own objective as it is, ascending: they divide a process's share of the effective
    batch, and KoLeo's groups divide them; where the size is part of the objective, the one that is used."""
    objective, share = config.objective, config.data.effective_batch // processes
    if micro_batches_fixed_by(config) is not None:
        return [config.data.micro_batch or share]
    group = objective.koleo_group if objective.koleo_weight > 0 else None
    return [size for size in range(1, share + 1) if share % size == 0 and size % (group or 1) == 0]
