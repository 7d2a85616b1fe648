"""The networks of student and teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.model.heads import ProjectionHead
from bigrun.model.vit import VisionTransformer
from bigrun.objective.base import Network

if TYPE_CHECKING:
    from bigrun import sections

__all__ = ["DinoNetwork"]


class DinoNetwork(Network):
    """A vision transformer, a head on its class token and, with iBOT, one on its patches."""

    dino_head: ProjectionHead
    ibot_head: ProjectionHead | None

    def __init__(self, model: sections.Model, objective: sections.Objective) -> None:
        super().__init__()
        assert objective.prototypes is not None
        self.backbone = VisionTransformer(model)
        self.dino_head = ProjectionHead(
            model.width,
            objective.head_hidden,
            objective.head_bottleneck,
            objective.prototypes,
            layers=objective.head_layers,
            normalise_prototypes=objective.normalise_prototypes,
        )
        self.ibot_head = None
        if objective.ibot_weight > 0:
            assert objective.ibot_prototypes is not None
            self.ibot_head = ProjectionHead(
                model.width,
                objective.ibot_head_hidden or objective.head_hidden,
                objective.ibot_head_bottleneck or objective.head_bottleneck,
                objective.ibot_prototypes,
                layers=objective.head_layers,
                normalise_prototypes=objective.normalise_prototypes,
            )
