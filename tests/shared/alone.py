"""An objective of somebody else's, for plugins that tests write: the least that one is."""

from __future__ import annotations

from typing import Any

from torch import nn

from bigrun.model.vit import VisionTransformer
from bigrun.objective.base import Network, Objective, Outputs

__all__ = ["Alone"]


class Small(Network):
    """A backbone and a head."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone = VisionTransformer(model)
        self.head = nn.Linear(model.width, 1)


class Alone(Objective):
    """One network, a forward pass, a loss; no prototypes, and no statistics that could be judged."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.student = self.teacher = Small(run.config.model)

    def forward(self, batch: Any, micro: int) -> Any:
        return Outputs(self.student.backbone(batch.global_crops), None)

    def loss_terms(self, outputs: Any) -> Any:
        student: Any = self.student
        return {"height": student.head(outputs.global_features.cls).square().mean()}
