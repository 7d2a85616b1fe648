"""What a step does on a GPU and not on a CPU, done on a CPU; and what a long run has that a new one has not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bigrun.model.attention import Attention, attend_by_group
from bigrun.model.groups import Qkv
from bigrun.model.vit import VisionTransformer
from bigrun.objective.centring import SinkhornKnopp
from bigrun.objective.targets import imitated_device

__all__ = ["attend_as_on_gpu", "fill_queues", "imitating", "keep_most_crops"]


@contextlib.contextmanager
def imitating(device: str) -> Iterator[None]:
    """Logits are cut into portions as on this kind of device."""
    token = imitated_device.set(device)
    try:
        yield
    finally:
        imitated_device.reset(token)


def attend_as_on_gpu(modules: Iterable[nn.Module]) -> None:
    """Give the engine's own attention the fused kernel for every length; a plugin's is left alone."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, Attention) and part.kernel is attend_by_group:
                part.kernel = attend_fused


def attend_fused(groups: Sequence[Qkv]) -> list[Tensor]:
    """One call per crop size, which keeps no attention matrix."""
    return [F.scaled_dot_product_attention(q, k, v) for q, k, v in groups]


def keep_most_crops(modules: Iterable[nn.Module]) -> None:
    """Where the number of crops that stochastic depth keeps is rounded at random, round up."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, VisionTransformer):
                part.draw = lambda: 1 - 1e-6


def fill_queues(objective: nn.Module) -> None:
    """As after many steps."""
    for module in objective.modules():
        if isinstance(module, SinkhornKnopp) and module.has_queue:
            module.filled = len(module.queue)
