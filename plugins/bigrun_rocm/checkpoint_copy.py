"""The copy of a run's state from which a checkpoint is written while training goes on: on an APU it takes of the memory
that the GPU has, too."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bigrun.planner.host_memory import pinned_bytes

if TYPE_CHECKING:
    from bigrun.config import Config

__all__ = ["pinned_copy_bytes"]

NUMBER_BYTES = 4
"""Of weights and averages, which are fp32."""
COPIES = 4
"""Student, teacher, and AdamW's two averages."""


def pinned_copy_bytes(config: Config, frozen_backbones: int = 0) -> int:
    """Of the engine's copy of the state, in page-locked memory: each tensor in a buffer of its own, whose size torch
    rounds up (`pinned_bytes`), 1.1 to 1.5 times the state. Without norms, biases and tokens, which are a thousandth.

    Args:
        frozen_backbones: networks that plugins keep beside the teacher.
    """
    backbone = sum(pinned_bytes(NUMBER_BYTES * numbers) for numbers in backbone_matrices(config))
    heads = sum(pinned_bytes(NUMBER_BYTES * numbers) for numbers in head_matrices(config))
    return COPIES * (backbone + heads) + frozen_backbones * backbone


def backbone_matrices(config: Config) -> Iterator[int]:
    """Numbers of each matrix."""
    model = config.model
    yield model.in_channels * model.patch_size_px**2 * model.width
    for _ in range(model.depth):
        yield 3 * model.width**2  # queries, keys and values
        yield model.width**2
        yield from [model.width * model.ffn_hidden] * (3 if model.ffn == "swiglu" else 2)


def head_matrices(config: Config) -> Iterator[int]:
    """Of the heads for classes and for patches."""
    width, objective = config.model.width, config.objective
    sizes = [(objective.head_hidden, objective.head_bottleneck, objective.prototypes or 0)]
    if objective.ibot_weight > 0:
        hidden = objective.ibot_head_hidden or objective.head_hidden
        bottleneck = objective.ibot_head_bottleneck or objective.head_bottleneck
        sizes.append((hidden, bottleneck, objective.ibot_prototypes or 0))
    for hidden, bottleneck, prototypes in sizes:
        widths = [width, *[hidden] * (objective.head_layers - 1), bottleneck, prototypes]
        yield from (inputs * outputs for inputs, outputs in itertools.pairwise(widths) if inputs * outputs)
