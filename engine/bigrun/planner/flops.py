"""Floating-point operations of a training step, from the configuration alone.

Per crop of N tokens a forward pass of the backbone has

    24 D^2 L N      linear layers, with a feed-forward layer as large as an MLP of 4 D
    4 N^2 D L       attention
    2 C p^2 D P     patch embedding

A backward pass costs two more. The student goes both ways on all crops, the teacher forward on the global ones. What
activation checkpointing computes again does not count, and neither do heads and losses (1 to 3 %).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigrun.sections import Model, Views

__all__ = ["forward_flops", "step_flops"]


def forward_flops(model: Model, size_px: int) -> float:
    """Of one crop of `size_px` x `size_px` through the backbone."""
    width, depth = model.width, model.depth
    patches = (size_px // model.patch_size_px) ** 2
    tokens = 1 + model.storage_tokens + patches
    matrices = 3 if model.ffn == "swiglu" else 2
    per_token = 8 * width**2 + 2 * matrices * width * model.ffn_hidden
    attention = 4 * tokens**2 * width
    embedding = 2 * model.in_channels * model.patch_size_px**2 * width * patches
    return depth * (per_token * tokens + attention) + embedding


def step_flops(model: Model, views: Views, *, teacher: bool = True) -> float:
    """Per image: student forward and backward on all crops, teacher forward on the global crops.

    Where every step draws one of several pairs of sizes it is the mean over them.
    """
    weights = views.size_weights or (1.0,) * len(views.pairs)
    total = 0.0
    for (global_px, local_px), weight in zip(views.pairs, weights, strict=True):
        near = views.global_crops * forward_flops(model, global_px)
        far = views.local_crops * forward_flops(model, local_px) if views.local_crops else 0.0
        total += weight * (3 * (near + far) + (near if teacher else 0.0))
    return total / sum(weights)
