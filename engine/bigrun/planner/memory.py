"""Memory at its peak, by what it holds, and what a device must have for it. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

__all__ = [
    "ACTIVATIONS",
    "BACKWARD",
    "COPIES",
    "GRADIENTS",
    "HEADS",
    "INPUTS",
    "OPTIMIZER",
    "OUTSIDE_BYTES",
    "RESERVED_FACTOR",
    "TEACHER",
    "WEIGHTS",
    "Memory",
    "frozen_category",
]  # fmt: skip

GIB = 2**30

WEIGHTS = "weights"
"""Of all that is trained, and the objective's state beside the teacher."""
GRADIENTS = "gradients"
OPTIMIZER = "optimizer"
TEACHER = "teacher"
COPIES = "weights in bf16"
"""Autocast's copies of trained weights, from the forward to the backward pass."""
ACTIVATIONS = "activations"
"""Of all backbones: what the backward pass needs, and what a pass without one has for a moment."""
HEADS = "heads and losses"
"""Everything of a forward pass that is outside of the backbones."""
BACKWARD = "backward pass"
"""Gradients of activations, and activations that are computed again."""
INPUTS = "crops"
"""The views of the whole effective batch, which stay on the device for the step."""

# Fragments and rounding of the caching allocator, 1.02 to 1.10 with expandable segments; context and libraries' work
# space, 0.3 to 0.8 GiB, are outside of it. Estimates: see docs/how-to/does-it-fit.md.
RESERVED_FACTOR = 1.08
OUTSIDE_BYTES = round(0.7 * GIB)


def frozen_category(name: str) -> str:
    """Of a plugin's frozen module."""
    return f"frozen {name}"


@attrs.frozen
class Memory:
    """What a step has allocated when it is most."""

    peak_bytes: int
    by_category: Mapping[str, int]

    def need_bytes(self, device: str) -> int:
        """What the device must have: on a GPU the allocator's peak x 1.08 + 0.7 GiB."""
        return round(RESERVED_FACTOR * self.peak_bytes) + OUTSIDE_BYTES if device == "cuda" else self.peak_bytes
