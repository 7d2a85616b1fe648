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
    "RESERVED_FACTORS",
    "TEACHER",
    "WEIGHTS",
    "Memory",
    "device_bytes",
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

# Fragments and rounding of the caching allocator: 1.02 to 1.10 with segments that grow (expandable_segments), else 1.1
# to 1.25. On ROCm they do not grow up to torch 2.11, and crash later (pytorch issues 187343, 192259). Context and
# libraries' work space, 0.3 to 0.8 GiB, are outside of it. Estimates: see docs/how-to/does-it-fit.md.
RESERVED_FACTORS = {"cuda": 1.08, "rocm": 1.25}
OUTSIDE_BYTES = round(0.7 * GIB)


def device_bytes(tensor_bytes: float, backend: str) -> int:
    """What a device must have for tensors of so many bytes: on a GPU more, by `backend`, `cuda` or `rocm`; on a CPU
    just these."""
    factor = RESERVED_FACTORS.get(backend)
    return round(tensor_bytes) if factor is None else round(factor * tensor_bytes) + OUTSIDE_BYTES


def frozen_category(name: str) -> str:
    """Of a plugin's frozen module."""
    return f"frozen {name}"


@attrs.frozen
class Memory:
    """What a step has allocated when it is most."""

    peak_bytes: int
    by_category: Mapping[str, int]

    def need_bytes(self, backend: str) -> int:
        """What the device must have, see `device_bytes`."""
        return device_bytes(self.peak_bytes, backend)
