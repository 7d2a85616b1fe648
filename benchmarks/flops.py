"""Floating-point operations of a training step, and what a device could do at most.

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

__all__ = ["forward_flops", "peak_flops", "step_flops"]

# Dense bf16 with fp32 accumulation, TFLOP/s, from the makers' data sheets; part of the device's name, longest first.
PEAKS = {
    "RTX 3090": 71.0,
    "RTX 4090": 165.2,
    "RTX 5090": 209.5,
    "A100": 312.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "MI300X": 1307.4,
    "8060S": 59.4,
}


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
    """Per image: student forward and backward on all crops, teacher forward on the global crops."""
    near = views.global_crops * forward_flops(model, views.global_size_px)
    far = views.local_crops * forward_flops(model, views.local_size_px) if views.local_crops else 0.0
    return 3 * (near + far) + (near if teacher else 0.0)


def peak_flops(device: str) -> float | None:
    """Of a device by the name that torch has for it; None for one that is not listed: nothing is guessed."""
    found = [name for name in PEAKS if name in device]
    return 1e12 * PEAKS[max(found, key=len)] if found else None
