"""The loop that somebody would write without bigrun: same networks, same mathematics, nothing else.

DINO on class tokens alone. It has no hooks, events, metrics, checkpoints or accumulation, and seeds no generator.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bigrun.data.views import Views
from bigrun.objective.losses import dino_loss
from bigrun.objective.network import DinoNetwork
from bigrun.objective.sinkhorn import sinkhorn_bias
from bigrun.objective.targets import Targets, rows_at_once
from bigrun.optimizer import build_adamw, parameter_groups

if TYPE_CHECKING:
    from bigrun.config import Config
    from bigrun.data.dataset import Samples

__all__ = ["PlainLoop"]


class PlainLoop:
    """Trains a student and its teacher on one process, in fp32 on the CPU, with one micro-batch per step."""

    def __init__(self, config: Config, weights: Mapping[str, Tensor]) -> None:
        """`weights` are the student's at the start."""
        self.config: Any = config  # resolved: no value is None
        self.views = Views(config.views, config.model.in_channels, config.run.seed)
        self.student = DinoNetwork(config.model, config.objective)
        self.student.load_state_dict(weights)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.parts = [self.student.backbone, self.student.dino_head]
        groups = parameter_groups(dict(self.student.named_children()), config.model.depth, config.optimizer)
        self.optimizer = build_adamw(groups, config.optimizer)
        self.losses: list[Tensor] = []

    def train(self, batches: Iterator[Samples]) -> None:
        self.student.train()
        for step, samples in enumerate(batches, start=1):
            self.take_step(step, samples)

    def take_step(self, step: int, samples: Samples) -> None:
        self.set_learning_rates(step)
        batch = self.views(samples, torch.device("cpu"), step)
        assert batch.local_crops is not None
        target = self.teach(batch.global_crops, step)
        loss = self.loss(batch.global_crops, batch.local_crops, target)
        loss.backward()  # type: ignore[no-untyped-call]
        norms = [torch.nn.utils.clip_grad_norm_(p.parameters(), self.config.optimizer.clip_norm) for p in self.parts]
        if bool(torch.stack([loss.isfinite(), *(norm.isfinite() for norm in norms)]).all()):
            self.optimizer.step()
            self.follow(step)
            self.losses.append(loss.detach())
        self.optimizer.zero_grad(set_to_none=True)

    def set_learning_rates(self, step: int) -> None:
        optimizer, batch, total = self.config.optimizer, self.config.data.effective_batch, self.config.run.max_steps
        warmup, frozen = optimizer.warmup_steps, optimizer.freeze_last_layer_steps
        peak = optimizer.base_lr * 4 * math.sqrt(batch / 1024)
        done = step - 1
        if done < warmup:
            rate = peak * done / warmup
        else:
            end = peak * optimizer.lr_end_fraction
            cosine = math.cos(math.pi * (done - warmup) / (total - warmup - 1))
            rate = end + 0.5 * (peak - end) * (1 + cosine)
        for group in self.optimizer.param_groups:
            is_frozen = group["last_layer"] and done < frozen
            group["lr"] = 0.0 if is_frozen else rate * group["lr_factor"]
            group["weight_decay"] = optimizer.weight_decay * group["weight_decay_factor"]

    def teacher_temperature(self, step: int) -> float:
        objective = self.config.objective
        start: float = objective.teacher_temperature_start
        end: float = objective.teacher_temperature
        warm: float = min((step - 1) / objective.teacher_temperature_warmup_steps, 1.0)
        return start + (end - start) * warm

    @torch.no_grad()
    def teach(self, crops: Tensor, step: int) -> Targets:
        """Of (G, b) class tokens. What saves memory (logits by the chunk) is mathematics, not a part of the loop."""
        head, temperature = self.teacher.dino_head, self.teacher_temperature(step)
        rows = head.bottleneck(self.teacher.backbone(crops).cls)
        logits = [head.prototypes(part) for part in rows.split(rows_at_once(len(head.weight()), rows.device))]
        bias = sinkhorn_bias(lambda: logits, temperature, self.config.objective.sinkhorn_iterations)
        return Targets(rows.view(self.config.views.global_crops, -1, rows.shape[1]), head.weight(), bias, temperature)

    def loss(self, near: Tensor, far: Tensor, targets: Targets) -> Tensor:
        temperature, local_weight = self.config.objective.student_temperature, self.config.objective.local_weight
        g, s = self.config.views.global_crops, self.config.views.local_crops
        head, prototypes = self.student.dino_head, self.student.dino_head.weight()
        features = self.student.backbone.forward_list([near, far])
        rows = head.bottleneck(torch.cat([f.cls for f in features]))
        near_rows, far_rows = torch.split(rows, [len(near), len(far)])
        near_rows, far_rows = near_rows.view(g, -1, rows.shape[1]), far_rows.view(s, -1, rows.shape[1])
        pairs = g * (g - 1) + g * s
        near_loss = dino_loss(near_rows, prototypes, targets, temperature, ignore_diagonal=True)
        far_loss = dino_loss(far_rows, prototypes, targets, temperature, ignore_diagonal=False)
        total: Tensor = 1 / pairs * g * (g - 1) * near_loss + 1 / pairs * g * s * local_weight * far_loss
        return total

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the teacher towards the student."""
        start, end = self.config.teacher.momentum, self.config.teacher.momentum_end
        cosine = math.cos(math.pi * (step - 1) / (self.config.run.max_steps - 1))
        momentum = end + 0.5 * (start - end) * (1 + cosine)
        torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - momentum)
