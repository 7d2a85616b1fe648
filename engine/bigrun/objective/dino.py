"""The objective of DINOv3: class tokens (DINO), masked patches (iBOT) and KoLeo.

The student's crops predict the teacher's view of the same image, once as a whole and once patch by patch where the
student sees a mask. The teacher's assignments are balanced over the whole effective batch, so 4 micro-batches of 16
images train exactly as one of 64 does (arXiv 2104.14294; 2111.07832; 2304.07193, section 4; 2508.10104, section 3).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from bigrun.data.draws import derive_seed
from bigrun.data.masking import Masks, crop_masks
from bigrun.ema import ema_update, frozen_copy
from bigrun.objective.base import Objective, Outputs
from bigrun.objective.centring import Centring, SinkhornKnopp, SoftmaxCentring
from bigrun.objective.losses import dino_loss, ibot_loss, koleo_loss
from bigrun.objective.network import DinoNetwork
from bigrun.objective.rows import by_crop, masked
from bigrun.objective.statistics import feature_statistics, prototype_use
from bigrun.objective.targets import Targets, compute_type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bigrun.data.dataset import Batch
    from bigrun.rules import EngineConfig
    from bigrun.schedules import Schedules

__all__ = ["DinoObjective", "DinoOutputs"]


@attrs.frozen(eq=False)
class DinoOutputs(Outputs):
    """One micro-batch of b images: what the student says, as bottlenecks, and what it should say."""

    global_rows: Tensor  # (G, b, e)
    local_rows: Tensor | None  # (S, b, e)
    patch_rows: Tensor | None  # (M, e') of the masked patches
    taught: Taught


@attrs.frozen(eq=False)
class Taught:
    """The teacher's part of one micro-batch."""

    classes: Targets  # of (G, b) class tokens
    patches: Targets | None  # of (1, M) masked patches
    masks: Masks | None
    teacher_classes: Tensor  # (G*b, D) behind the final norm
    teacher_patches: Tensor | None  # (G*b, P, D) behind the final norm, where they are kept


class DinoObjective(Objective):
    """Student, teacher, and the losses between them.

    `keep_teacher_patches`: set it before the run's first step to find the teacher's patch tokens in the outputs.
    """

    student: DinoNetwork
    teacher: DinoNetwork
    keep_teacher_patches = False

    def __init__(self, config: EngineConfig, schedules: Schedules) -> None:
        """`schedules` has both temperatures, `local_weight` and `teacher_momentum` when the first step is prepared."""
        super().__init__()
        self.section = config.objective
        self.masking = config.masking
        self.seed = config.run.seed
        self.patch_size_px = config.model.patch_size_px
        self.global_crops = config.views.global_crops
        self.local_crops = config.views.local_crops
        self.schedules = schedules
        self.student = DinoNetwork(config.model, config.objective)
        self.teacher = frozen_copy(self.student)
        rows = self.global_crops * config.data.effective_batch
        self.centring = nn.ModuleDict({"classes": self._centring(self.teacher.dino_head, queue_rows=rows)})
        if self.teacher.ibot_head is not None:
            self.centring["patches"] = self._centring(self.teacher.ibot_head, queue_rows=0)
        self.group: dist.ProcessGroup | None = None
        self.window: list[Taught] = []

    def _centring(self, head: Any, queue_rows: int) -> Centring:
        section, (prototypes, bottleneck) = self.section, head.last_layer.weight.shape
        if section.centring == "softmax":
            return SoftmaxCentring(prototypes, section.centre_momentum)
        return SinkhornKnopp(section.sinkhorn_iterations, bottleneck, section.queue_steps * queue_rows)

    def share_step(self, group: dist.ProcessGroup) -> None:
        self.group = group
        is_of_step = self.section.centring != "sinkhorn" or self.section.sinkhorn_scope == "effective"
        for centring in self.centrings() if is_of_step else ():
            centring.group = group

    def centrings(self) -> list[Centring]:
        return [module for module in self.centring.values() if isinstance(module, Centring)]

    def train(self, mode: bool = True) -> DinoObjective:
        """Switch the student; the teacher is always in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def prepare(self, step: int, window: Sequence[Batch]) -> None:
        """Run the teacher on the window's global crops and balance its assignments over all of them."""
        masks = self._masks(step, window)
        class_rows, patch_rows, tokens, kept = [], [], [], []
        for batch, mask in zip(window, masks, strict=True):  # of a micro-batch's features, only the bottlenecks stay
            features = self.teacher.backbone(batch.global_crops, spacing_mm=batch.global_spacing_mm)
            class_rows.append(self.teacher.dino_head.bottleneck(features.cls))
            if mask is not None and self.teacher.ibot_head is not None:
                patch_rows.append(self.teacher.ibot_head.bottleneck(masked(features.patches, mask)))
            tokens.append(features.cls.clone())
            kept.append(features.patches if self.keep_teacher_patches else None)
            del features  # or it would live through the next forward pass
        classes = self._assign("classes", self.teacher.dino_head, class_rows)
        patches: list[Targets | None] = [None] * len(window)
        if self.teacher.ibot_head is not None:
            patches = list(self._assign("patches", self.teacher.ibot_head, patch_rows))
        self.window = [Taught(*parts) for parts in zip(classes, patches, masks, tokens, kept, strict=True)]

    def _masks(self, step: int, window: Sequence[Batch]) -> Sequence[Masks | None]:
        """What is hidden of each micro-batch: a function of seed and step, whatever the micro-batches are."""
        if self.teacher.ibot_head is None:
            return [None] * len(window)
        crops, sizes = window[0].global_crops, [batch.size for batch in window]
        grid = (crops.shape[2] // self.patch_size_px, crops.shape[3] // self.patch_size_px)
        rank, processes = (0, 1) if self.group is None else (dist.get_rank(self.group), dist.get_world_size(self.group))
        generator = np.random.default_rng(derive_seed(self.seed, "masks", step))
        masks = crop_masks(self.global_crops * sum(sizes) * processes, grid, self.masking, generator)
        by_image = masks.reshape(self.global_crops, processes, sum(sizes), -1)[:, rank]
        parts = np.split(by_image, np.cumsum(sizes)[:-1], axis=1)  # (G, b, P) each
        return [Masks.of(part.reshape(-1, masks.shape[1]), crops.device) for part in parts]

    def _assign(self, name: str, head: Any, rows: Sequence[Tensor]) -> list[Targets]:
        """Targets from the bottlenecks of each micro-batch, (G*b, e) or (M, e)."""
        prototypes, temperature = compute_type(head.weight()), self.schedules["teacher_temperature"]
        centring: Any = self.centring[name]
        if self.section.centring == "sinkhorn" and self.section.sinkhorn_scope == "micro":
            biases = [centring.bias([r], prototypes, temperature) for r in rows]
        else:
            biases = [centring.bias(rows, prototypes, temperature)] * len(rows)
        groups = self.global_crops if name == "classes" else 1
        return [
            Targets(compute_type(by_crop(r, groups)), prototypes, bias, temperature)
            for r, bias in zip(rows, biases, strict=True)
        ]

    def forward(self, batch: Batch, micro: int) -> DinoOutputs:
        """Run the student on all crops of micro-batch `micro` of the prepared window."""
        taught, local = self.window[micro], batch.local_crops
        mask = None if taught.masks is None else taught.masks.patches
        crops, masks = ([batch.global_crops], [mask]) if local is None else ([batch.global_crops, local], [mask, None])
        spacing = [batch.global_spacing_mm, batch.local_spacing_mm]
        features = self.student.backbone.forward_list(crops, masks, spacing[: len(crops)])
        rows = self.student.dino_head.bottleneck(torch.cat([f.cls for f in features]))  # (G*b + S*b, e)
        parts = torch.split(rows, [len(f.cls) for f in features])
        patch_rows = None
        if taught.masks is not None and self.student.ibot_head is not None:
            patch_rows = self.student.ibot_head.bottleneck(masked(features[0].patches, taught.masks))
        return DinoOutputs(
            global_features=features[0],
            local_features=None if local is None else features[1],
            masks=mask,
            teacher_classes=taught.teacher_classes,
            teacher_patches=taught.teacher_patches,
            global_rows=by_crop(parts[0], self.global_crops),
            local_rows=None if local is None else by_crop(parts[1], self.local_crops),
            patch_rows=patch_rows,
            taught=taught,
        )

    def loss_terms(self, outputs: Outputs) -> dict[str, Tensor]:
        """Weighted terms: see docs/explanation/objective.md, 5.1.

        `dino_global`: pairs of different global crops; `dino_local`: pairs of a local and a global crop; each is a mean
        over its pairs times its share of all pairs. `ibot`: masked patches. `koleo`: the sum over global crops.
        """
        assert isinstance(outputs, DinoOutputs)
        section, schedules, taught = self.section, self.schedules, outputs.taught
        temperature, prototypes = schedules["student_temperature"], self.student.dino_head.weight()
        g, s = self.global_crops, self.local_crops
        share = section.dino_weight / (g * (g - 1) + g * s)
        loss = dino_loss(outputs.global_rows, prototypes, taught.classes, temperature, ignore_diagonal=True)
        terms = {"dino_global": share * g * (g - 1) * loss}
        if outputs.local_rows is not None:
            loss = dino_loss(outputs.local_rows, prototypes, taught.classes, temperature, ignore_diagonal=False)
            terms["dino_local"] = share * g * s * schedules["local_weight"] * loss
        if outputs.patch_rows is not None:
            assert taught.patches is not None
            assert taught.masks is not None
            assert self.student.ibot_head is not None
            weights, crops = taught.masks.weights, len(taught.masks.patches)
            prototypes = self.student.ibot_head.weight()
            loss = ibot_loss(outputs.patch_rows, prototypes, taught.patches, weights, crops, temperature)
            terms["ibot"] = section.ibot_weight * loss
        if section.koleo_weight > 0:
            terms["koleo"] = section.koleo_weight * self._koleo(outputs).sum()
        return terms

    def _koleo(self, outputs: DinoOutputs) -> Tensor:
        """KoLeo of each global crop, (G,)."""
        group, neighbours = self.section.koleo_group, self.section.koleo_neighbours
        assert group is not None
        tokens = by_crop(outputs.global_features.cls, self.global_crops)
        return torch.stack([koleo_loss(crop, group, neighbours) for crop in tokens])

    @torch.no_grad()
    def statistics(self, outputs: Outputs) -> dict[str, Tensor]:
        """What tells the ways of not learning apart: see docs/reference/metrics.md.

        Of the whole step, over all processes, the use of the prototypes is among the numbers of its last micro-batch.
        """
        assert isinstance(outputs, DinoOutputs)
        taught, entropy = outputs.taught, outputs.taught.classes.entropy()
        prototypes, temperature = self.student.dino_head.weight(), self.schedules["student_temperature"]
        loss = dino_loss(outputs.global_rows, prototypes, taught.classes, temperature, ignore_diagonal=True)
        classes = by_crop(taught.teacher_classes, self.global_crops)
        found = feature_statistics(outputs.global_features, outputs.masks, classes)
        found["target_entropy_fraction"] = entropy / math.log(len(taught.classes.prototypes))
        found["student_divergence"] = loss - entropy
        if taught.patches is not None:
            fraction = taught.patches.entropy() / math.log(len(taught.patches.prototypes))
            found["patch_target_entropy_fraction"] = fraction
        if self.section.koleo_weight > 0:
            found["koleo"] = self._koleo(outputs).mean()
        if taught is self.window[-1]:
            found |= prototype_use([part.classes for part in self.window], self.group)
        return found

    @torch.no_grad()
    def assignments(self, network: Any, tokens: Tensor) -> Targets:
        prototypes, bottlenecks = compute_type(network.dino_head.weight()), network.dino_head.bottleneck(tokens)
        temperature = self.schedules["student_temperature" if network is self.student else "teacher_temperature"]
        bias = bottlenecks.new_zeros(len(prototypes))
        if network is not self.student:
            bias = self.centrings()[0].look(bottlenecks, prototypes, temperature)
        return Targets(compute_type(bottlenecks)[None], prototypes, bias, temperature)

    def update_teacher(self) -> None:
        """Exponential moving average with the current `teacher_momentum`; centres and queues take in the step."""
        ema_update(self.teacher, self.student, self.schedules["teacher_momentum"])
        for centring in self.centrings():
            centring.commit()
