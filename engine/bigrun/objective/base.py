"""What the loop asks of an objective, and what plugins may read of it."""

from __future__ import annotations

import abc
import contextlib
from typing import TYPE_CHECKING, Any

import attrs
from torch import Tensor, nn

from bigrun.evaluation.undisturbed import undisturbed
from bigrun.optimizer import parameter_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import torch.distributed as dist

    from bigrun.data.dataset import Batch
    from bigrun.model.vit import Features, VisionTransformer
    from bigrun.objective.targets import Targets
    from bigrun.sections import Optimizer

__all__ = ["Network", "Objective", "Outputs"]

TAKEN = {"optimizer", "frozen"}
"""Parts of a checkpoint that are not the objective's."""


@attrs.frozen(eq=False)
class Outputs:
    """The student's view of one micro-batch of b images, with gradients. Rows are crop-major: crop * b + image."""

    global_features: Features  # of G*b crops
    local_features: Features | None  # of S*b crops
    masks: Tensor | None = attrs.field(default=None, kw_only=True)
    """(G*b, P) bool: the patches that the student did not see; None when it saw all."""
    teacher_classes: Tensor | None = attrs.field(default=None, kw_only=True)
    """(G*b, D): the teacher's class tokens behind its final norm, without gradients, where there are any."""
    teacher_patches: Tensor | None = attrs.field(default=None, kw_only=True)
    """(G*b, P, D): the teacher's patch tokens behind its final norm, where the objective keeps them."""


class Network(nn.Module):
    """A backbone, and the heads of a subclass beside it. Every child is clipped on its own."""

    backbone: VisionTransformer


class Objective(nn.Module, abc.ABC):
    """A student that is trained, its teacher, and the losses between them.

    Its tensors are in child modules, `student`, `teacher` and any others; that is what a checkpoint holds. What
    `prepare` keeps from the window is not state: it is computed again in every step.

    `teacher` is the network whose features are evaluated, exported and taken as an anchor. An objective without a
    moving average says `self.teacher = self.student`: one module under two names, which is counted, placed and
    saved once.
    """

    student: Network
    teacher: Network
    whole: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    """Where several processes have a share of each tensor: a context in which networks can be used outside of a step,
    which all processes enter. Set by the engine."""

    def parts(self) -> dict[str, nn.Module]:
        """The child modules that have tensors, which a checkpoint holds, by the name of their file.

        A network that is student and teacher in one is there as `teacher`, where a checkpoint's reader looks for
        what to use.

        Raises:
            TypeError: there are no such networks, a tensor belongs to no child module, or a name is the engine's.
        """
        for name in ("student", "teacher"):
            if not isinstance(getattr(getattr(self, name, None), "backbone", None), nn.Module):
                raise TypeError(f"`{name}` is not a network with a `backbone`")
        own = [name for name, _ in self.named_parameters(recurse=False)]
        own += [name for name, _ in self.named_buffers(recurse=False)]
        if own:
            raise TypeError(f"an objective keeps its tensors in child modules; {', '.join(own)} belong to none")
        children = {name: child for name, child in self.named_children() if child.state_dict()}
        parts = {"teacher" if child is self.teacher else name: child for name, child in children.items()}
        if taken := sorted(parts.keys() & TAKEN):
            raise TypeError(f"a checkpoint has a part of the engine's named {taken[0]!r}: rename the child module")
        return parts

    def trained_modules(self) -> dict[str, nn.Module]:
        """The student's parts by name; each has a gradient norm and is clipped to it on its own."""
        return dict(self.student.named_children())

    def parameter_groups(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """What is optimized, each parameter once, as `bigrun.optimizer.parameter_groups` describes it."""
        return parameter_groups(self.trained_modules(), len(self.student.backbone.blocks), optimizer)

    def share_step(self, group: dist.ProcessGroup) -> None:
        """From now on a step is that of all processes of a group, each with as many images of it: what is balanced or
        counted over a step's images is so over those of all. Gradients are averaged by the engine."""

    def prepare(self, step: int, window: Sequence[Batch]) -> None:
        """Look at all micro-batches of the step, counted from 1, before any is trained on. Without gradients."""

    @abc.abstractmethod
    def forward(self, batch: Batch, micro: int) -> Outputs:
        """Run the student on the window's micro-batch number `micro`, counted from 0."""

    @abc.abstractmethod
    def loss_terms(self, outputs: Outputs) -> dict[str, Tensor]:
        """Weighted scalars of shape () by name, at least one; the micro-batch's loss is their sum.

        Each is a mean over the images of the micro-batch: the engine averages over the window.
        """

    def statistics(self, outputs: Outputs) -> dict[str, Tensor]:
        """Scalars worth logging, on the device and without gradients.

        Asked in the same micro-batches of all processes; what is logged is the mean over both.
        """
        return {}

    def update_teacher(self) -> None:
        """Let the teacher follow the student, once per optimizer step."""

    def assignments(self, network: Network, tokens: Tensor) -> Targets | None:
        """How class tokens are spread over prototypes, for plugins that look; None where there are no prototypes.

        Nothing of a step changes, and no other process is asked.

        Args:
            network: `student`, whose rows are its predictions, softmax(logits / T) without a bias; or `teacher`, whose
                rows are targets, balanced as in a step but over these tokens alone.
            tokens: (n, D), behind the final norm.
        """
        return None

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[VisionTransformer]:
        """The teacher's backbone in eval mode, without gradients and not compiled, for plugins that look at its
        features: on all processes, in the same order, as its weights may be shared among them.

        Afterwards it is as it was: a teacher that is the student goes on being trained.
        """
        backbone = self.teacher.backbone
        with self.whole(), undisturbed(backbone):
            yield backbone
