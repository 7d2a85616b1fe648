"""DINO on class tokens: the student's crops predict the teacher's view of the same image.

The teacher's prototype assignments are balanced by Sinkhorn-Knopp over the whole effective batch, so 4
micro-batches of 16 images train exactly as one of 64 does (arXiv 2104.14294; 2304.07193, section 4; 2508.10104,
section 3).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from bigrun.ema import ema_update, frozen_copy
from bigrun.model.heads import ProjectionHead
from bigrun.model.vit import VisionTransformer
from bigrun.objective.base import Network, Objective, Outputs
from bigrun.objective.losses import dino_loss
from bigrun.objective.sinkhorn import sinkhorn_bias, targets
from bigrun.optimizer import parameter_groups

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bigrun import sections
    from bigrun.data.dataset import Batch
    from bigrun.schedules import Schedules

__all__ = ["DinoNetwork", "DinoObjective", "DinoOutputs"]


class DinoNetwork(Network):
    """A vision transformer and the head on its class token."""

    def __init__(self, model: sections.Model, objective: sections.Objective) -> None:
        super().__init__()
        assert objective.prototypes is not None
        self.backbone = VisionTransformer(model)
        self.dino_head = ProjectionHead(
            model.width,
            objective.head_hidden,
            objective.head_bottleneck,
            objective.prototypes,
            normalise_prototypes=objective.normalise_prototypes,
        )


@attrs.frozen(eq=False)
class DinoOutputs(Outputs):
    """One micro-batch of b images: what the student says and what it should say."""

    global_logits: Tensor  # (G, b, K)
    local_logits: Tensor | None  # (S, b, K)
    targets: Tensor  # (G, b, K) float32, rows sum to 1


@attrs.frozen(eq=False)
class Assignment:
    """What is kept of the teacher for one micro-batch: e numbers per crop, from which its targets, K numbers per
    crop, are computed when their turn comes."""

    bottlenecks: Tensor  # (G*b, e)
    bias: Tensor  # (K,) float32


class DinoObjective(Objective):
    """Student, teacher, and the cross-entropy between their class tokens' prototype assignments."""

    student: DinoNetwork
    teacher: DinoNetwork

    def __init__(
        self,
        model: sections.Model,
        objective: sections.Objective,
        views: sections.Views,
        schedules: Schedules,
    ) -> None:
        """`schedules` has both temperatures and `teacher_momentum` when the first step is prepared."""
        super().__init__()
        self.section = objective
        self.schedules = schedules
        self.depth = model.depth
        self.global_crops = views.global_crops
        self.local_crops = views.local_crops
        self.student = DinoNetwork(model, objective)
        self.teacher = frozen_copy(self.student)
        self.assignments: list[Assignment] = []

    def train(self, mode: bool = True) -> DinoObjective:
        """Switch the student; the teacher is always in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def parameter_groups(self, optimizer: sections.Optimizer) -> list[dict[str, Any]]:
        return parameter_groups(self.trained_modules(), self.depth, optimizer)

    @torch.no_grad()
    def prepare(self, window: Sequence[Batch]) -> None:
        """Run the teacher on the window's global crops and balance its assignments over all of them."""
        bottlenecks = [self._teacher_bottlenecks(batch) for batch in window]
        if self.section.sinkhorn_scope == "effective":
            biases = [self._balance(bottlenecks)] * len(window)
        else:
            biases = [self._balance([rows]) for rows in bottlenecks]
        self.assignments = [Assignment(*pair) for pair in zip(bottlenecks, biases, strict=True)]

    def _teacher_bottlenecks(self, batch: Batch) -> Tensor:
        """(G*b, e)."""
        features = self.teacher.backbone(batch.global_crops)
        return self.teacher.dino_head.bottleneck(features.cls)

    def _balance(self, bottlenecks: Sequence[Tensor]) -> Tensor:
        """The prototypes' bias (K,) over all rows; logits exist for one micro-batch at a time."""

        def chunks() -> Iterator[Tensor]:
            return (self.teacher.dino_head.prototypes(rows) for rows in bottlenecks)

        return sinkhorn_bias(chunks, self.schedules["teacher_temperature"], self.section.sinkhorn_iterations)

    @torch.no_grad()
    def _targets(self, micro: int) -> Tensor:
        """(G, b, K) float32."""
        assignment = self.assignments[micro]
        logits = self.teacher.dino_head.prototypes(assignment.bottlenecks)  # (G*b, K)
        rows = targets(logits, self.schedules["teacher_temperature"], assignment.bias)
        return by_crop(rows, self.global_crops)

    def forward(self, batch: Batch, micro: int) -> DinoOutputs:
        """Run the student on all crops of micro-batch `micro` of the prepared window."""
        crops = [batch.global_crops] if batch.local_crops is None else [batch.global_crops, batch.local_crops]
        features = self.student.backbone.forward_list(crops)
        logits = self.student.dino_head(torch.cat([f.cls for f in features]))  # (G*b + S*b, K)
        parts = torch.split(logits, [len(f.cls) for f in features])
        has_local = batch.local_crops is not None
        return DinoOutputs(
            global_features=features[0],
            local_features=features[1] if has_local else None,
            global_logits=by_crop(parts[0], self.global_crops),
            local_logits=by_crop(parts[1], self.local_crops) if has_local else None,
            targets=self._targets(micro),
        )

    def loss_terms(self, outputs: Outputs) -> dict[str, Tensor]:
        """`dino_global`: pairs of different global crops; `dino_local`: pairs of a local and a global crop.

        Each is a mean over its pairs, weighted by its share of all pairs; `local_weight` scales the latter.
        """
        assert isinstance(outputs, DinoOutputs)
        temperature = self.schedules["student_temperature"]
        g, s = self.global_crops, self.local_crops
        pairs = g * (g - 1) + g * s
        loss = dino_loss(outputs.global_logits, outputs.targets, temperature, ignore_diagonal=True)
        terms = {"dino_global": g * (g - 1) / pairs * loss}
        if outputs.local_logits is not None:
            loss = dino_loss(outputs.local_logits, outputs.targets, temperature, ignore_diagonal=False)
            terms["dino_local"] = g * s / pairs * self.section.local_weight * loss
        return terms

    @torch.no_grad()
    def statistics(self, outputs: Outputs) -> dict[str, Tensor]:
        """What tells the ways of not learning apart.

        `target_entropy_fraction`: mean entropy of the targets over ln K; 1 when the teacher sees no difference
        between images. `student_divergence`: mean Kullback-Leibler divergence of the student's global crops from
        the targets, in nat; 0 when the student says what the teacher does.
        """
        assert isinstance(outputs, DinoOutputs)
        entropy = torch.special.entr(outputs.targets).sum(-1).mean()
        cross_entropy = dino_loss(
            outputs.global_logits, outputs.targets, self.schedules["student_temperature"], ignore_diagonal=True
        )
        return {
            "target_entropy_fraction": entropy / math.log(outputs.targets.shape[-1]),
            "student_divergence": cross_entropy - entropy,
        }

    def update_teacher(self) -> None:
        """Exponential moving average with the current `teacher_momentum`."""
        ema_update(self.teacher, self.student, self.schedules["teacher_momentum"])


def by_crop(rows: Tensor, crops: int) -> Tensor:
    """(crops*b, K), crop-major -> (crops, b, K)."""
    return rows.view(crops, -1, rows.shape[-1])
