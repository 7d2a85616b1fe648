"""Floating-point operations of a training step, from the configuration alone.

Per crop of N tokens a forward pass of the backbone has

    24 D^2 L N      linear layers, with a feed-forward layer as large as an MLP of 4 D
    4 N^2 D L       attention
    2 C p^2 D P     patch embedding

A backward pass costs two more; that of the embedding only one, for nobody asks for gradients of images, but three are
counted here as well: 0.1 % of a step of ViT-L. The student goes both ways on all crops, the teacher forward on the
global ones. What activation checkpointing computes again does not count, and neither do heads and losses. The heads'
layers would add 0.4 % to a step of ViT-L with 8,192 prototypes and 1 % with 65,536; to one of ViT-S 3 and 11 %.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigrun.sections import Model, Views

__all__ = ["forward_flops", "pair_flops", "step_flops"]


def forward_flops(model: Model, size_px: int, *, kept_fraction: float = 1.0) -> float:
    """Of one crop of `size_px` x `size_px` through the backbone.

    Args:
        kept_fraction: share of the crops for which a branch of a block is computed (stochastic depth).
    """
    width, depth = model.width, model.depth
    patches = (size_px // model.patch_size_px) ** 2
    tokens = 1 + model.storage_tokens + patches
    matrices = 3 if model.ffn == "swiglu" else 2
    per_token = 8 * width**2 + 2 * matrices * width * model.ffn_hidden
    attention = 4 * tokens**2 * width
    embedding = 2 * model.in_channels * model.patch_size_px**2 * width * patches
    return kept_fraction * depth * (per_token * tokens + attention) + embedding


def pair_flops(
    model: Model,
    views: Views,
    pair_px: tuple[int, int],
    *,
    teacher: bool = True,
    learns: bool = True,
    kept_fraction: float = 1.0,
) -> float:
    """Per image, in a step with these sides of global and local crops.

    Args:
        teacher: whether there is one of its own.
        learns: whether the student's backbone does; one that is frozen goes forward alone.
        kept_fraction: of the student's crops, see `forward_flops`; the teacher computes all of its own.
    """
    global_px, local_px = pair_px
    student = views.global_crops * forward_flops(model, global_px, kept_fraction=kept_fraction)
    if views.local_crops:
        student += views.local_crops * forward_flops(model, local_px, kept_fraction=kept_fraction)
    taught = views.global_crops * forward_flops(model, global_px) if teacher else 0.0
    return (3 if learns else 1) * student + taught


def step_flops(model: Model, views: Views, *, teacher: bool = True, kept_fraction: float = 1.0) -> float:
    """Per image: student forward and backward on all crops, teacher forward on the global crops.

    Where every step draws one of several pairs of sizes it is the mean over them. Arguments: see `pair_flops`.
    """
    weights = views.size_weights or (1.0,) * len(views.pairs)
    total = sum(
        weight * pair_flops(model, views, pair, teacher=teacher, kept_fraction=kept_fraction)
        for pair, weight in zip(views.pairs, weights, strict=True)
    )
    return total / sum(weights)
