"""What the loop asks of an objective, and what plugins may read of it."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any

import attrs
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bigrun.data.dataset import Batch
    from bigrun.model.vit import Features, VisionTransformer
    from bigrun.sections import Optimizer

__all__ = ["Network", "Objective", "Outputs"]


@attrs.frozen(eq=False)
class Outputs:
    """The student's view of one micro-batch of b images, with gradients. Rows are crop-major: crop * b + image."""

    global_features: Features  # of G*b crops
    local_features: Features | None  # of S*b crops


class Network(nn.Module):
    """A backbone, and the heads of a subclass beside it. Every child is clipped on its own."""

    backbone: VisionTransformer


class Objective(nn.Module, abc.ABC):
    """A student that is trained, its teacher, and the losses between them.

    Its tensors are in the child modules `student` and `teacher`; that is what a checkpoint holds. What
    `prepare` keeps from the window is not state: it is computed again in every step.
    """

    student: Network
    teacher: Network

    def trained_modules(self) -> dict[str, nn.Module]:
        """The student's parts by name; each has a gradient norm and is clipped to it on its own."""
        return dict(self.student.named_children())

    @abc.abstractmethod
    def parameter_groups(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """What is optimized, each parameter once, as `bigrun.optimizer.parameter_groups` describes it."""

    @abc.abstractmethod
    def prepare(self, window: Sequence[Batch]) -> None:
        """Look at all micro-batches of the step before any is trained on. Without gradients."""

    @abc.abstractmethod
    def forward(self, batch: Batch, micro: int) -> Outputs:
        """Run the student on the window's micro-batch number `micro`, counted from 0."""

    @abc.abstractmethod
    def loss_terms(self, outputs: Outputs) -> dict[str, Tensor]:
        """Weighted scalars by name; the micro-batch's loss is their sum."""

    def statistics(self, outputs: Outputs) -> dict[str, Tensor]:
        """Scalars worth logging, on the device and without gradients."""
        return {}

    @abc.abstractmethod
    def update_teacher(self) -> None:
        """Let the teacher follow the student, once per optimizer step."""
