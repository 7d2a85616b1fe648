"""What a run's configuration says about how its numbers are to be judged."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from bigrun.config import Config

__all__ = ["Facts"]


@attrs.frozen
class Facts:
    """Of a run; what only the engine's own objective has is None where a plugin replaces it."""

    warmup_steps: int
    """The last step of the last warm-up: learning rate, prototypes, backbone, teacher's temperature."""
    release_step: int | None
    """The first step in which a backbone from `init.path` learns, if it waits."""
    rows: int
    """Class tokens of the teacher in a step, over all its global crops."""
    log_every_steps: int
    """Steps between two rows of metrics."""
    is_fresh: bool
    """Heads start from random weights, so that the loss has somewhere to go."""
    prototypes: int | None = None
    is_softmax_centred: bool = False
    idle_modules: tuple[str, ...] = ()
    """Modules that no loss reaches, by their options."""

    @classmethod
    def of(cls, config: Config) -> Facts:
        optimizer, objective, frozen = config.optimizer, config.objective, config.init.freeze_backbone_steps or 0
        warmups = [optimizer.warmup_steps, optimizer.freeze_last_layer_steps, frozen]
        is_own = "objective" not in config.replaced
        if is_own:
            warmups.append(objective.teacher_temperature_warmup_steps)
        return cls(
            warmup_steps=max(steps or 0 for steps in warmups),
            release_step=frozen + 1 if frozen else None,
            rows=config.views.global_crops * config.data.effective_batch,
            log_every_steps=config.run.log_every_steps,
            is_fresh=not config.init.heads,
            prototypes=objective.prototypes if is_own else None,
            is_softmax_centred=is_own and objective.centring == "softmax",
            idle_modules=("dino_head",) if is_own and objective.dino_weight == 0 else (),
        )

    @property
    def ceiling(self) -> float | None:
        """ln K: the cross-entropy of a student that answers everything alike [spec 10.2]."""
        return None if self.prototypes is None else math.log(self.prototypes)

    @property
    def entropy_floor_fraction(self) -> float:
        """ln(K / n) / ln K: balanced targets of n rows cannot be sharper [spec 10.2]."""
        if self.prototypes is None:
            return 0.0
        return max(math.log(self.prototypes / self.rows), 0.0) / math.log(self.prototypes)
