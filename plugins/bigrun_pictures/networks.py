"""Which networks of a run are looked at."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

from bigrun.errors import UsageError
from bigrun.model.vit import VisionTransformer
from bigrun.strategy import is_meta

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["compared_networks", "precision_of", "teacher_of"]


def teacher_of(run: Run) -> VisionTransformer:
    """The network whose features are used. Raises UsageError where there is nothing in it that could be looked at."""
    backbone = run.objective.teacher.backbone
    if not isinstance(backbone, VisionTransformer):
        raise UsageError(
            f"plugins.attention-maps: the backbone of {type(run.objective).__name__} is a {type(backbone).__name__} "
            "and no bigrun.model.vit.VisionTransformer, whose attention could be drawn: do without this plugin"
        )
    return backbone


def compared_networks(run: Run) -> dict[str, VisionTransformer]:
    """What has patches on the teacher's grid, by name: the student, where it is another network, and frozen ones that
    have weights, as the Gram teacher."""
    teacher = teacher_of(run)
    found: dict[str, VisionTransformer] = {}
    student = run.objective.student.backbone
    if isinstance(student, VisionTransformer) and student is not teacher:
        found["student"] = student
    for name, module in run.frozen.items():
        frozen = next((part for part in module.modules() if isinstance(part, VisionTransformer)), None)
        if frozen is not None and not is_meta(frozen) and embedding_of(frozen) == embedding_of(teacher):
            found[name.replace("_", " ").replace("-", " ")] = frozen
    return found


def embedding_of(backbone: VisionTransformer) -> tuple[int, ...]:
    """Channels, and the size of a patch in pixels."""
    proj = backbone.patch_embed.proj
    return proj.in_channels, *proj.stride


def precision_of(run: Run, network: VisionTransformer) -> AbstractContextManager[None]:
    """That of training; for a frozen network whose weights are half as wide, theirs."""
    dtype = next((p.dtype for p in network.blocks.parameters() if p.dtype in (torch.bfloat16, torch.float16)), None)
    return run.strategy.precision() if dtype is None else torch.autocast(run.device.type, dtype)
