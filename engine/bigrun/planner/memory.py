"""Memory at its peak, by what it holds, and what a device must have for it. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

__all__ = [
    "ACTIVATIONS",
    "BACKWARD",
    "BUCKETS",
    "COPIES",
    "GATHERED",
    "GRADIENTS",
    "GROWING_FACTOR",
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
    "has_growing_segments",
    "reserved_factor",
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
BUCKETS = "gradients in buckets"
"""That DDP sums over the processes: as large as all gradients, whether there are any yet or not."""
GATHERED = "gathered weights"
"""Of FSDP's units that compute, with the buffers through which they and their gradients travel."""
BACKWARD = "backward pass"
"""Gradients of activations, and activations that are computed again."""
INPUTS = "crops"
"""The views of the whole effective batch, which stay on the device for the step."""

# Fragments and rounding of the caching allocator: 1.1 to 1.25, and 1.02 to 1.10 with segments that grow
# (expandable_segments), which torch makes on demand alone. On ROCm they do not grow up to torch 2.11, and crash later
# (pytorch issues 187343, 192259). Context and libraries' work space, 0.3 to 0.8 GiB, are outside of it. Estimates: see
# docs/how-to/does-it-fit.md.
RESERVED_FACTORS = {"cuda": 1.25, "rocm": 1.25}
GROWING_FACTOR = 1.08
OUTSIDE_BYTES = round(0.7 * GIB)

ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""The first one that is set counts."""


def has_growing_segments(environment: Mapping[str, str]) -> bool:
    """Whether torch's allocator for CUDA is asked for segments that grow."""
    found = next((environment[name] for name in ALLOCATOR_VARIABLES if name in environment), "")
    return re.search(r"expandable_segments\s*:\s*true", found, re.IGNORECASE) is not None


def reserved_factor(backend: str, *, grows: bool = False) -> float:
    """What the allocator takes of a device, by what tensors take; 1 on a CPU.

    Args:
        backend: `cuda`, `rocm` or `cpu`.
        grows: whether the allocator is asked for segments that grow.
    """
    return GROWING_FACTOR if grows and backend == "cuda" else RESERVED_FACTORS.get(backend, 1.0)


def device_bytes(tensor_bytes: float, backend: str, *, grows: bool = False) -> int:
    """What a device must have for tensors of so many bytes: on a GPU more, on a CPU just these. Arguments: see
    `reserved_factor`."""
    outside = OUTSIDE_BYTES if backend in RESERVED_FACTORS else 0
    return round(reserved_factor(backend, grows=grows) * tensor_bytes) + outside


def frozen_category(name: str) -> str:
    """Of a plugin's frozen module."""
    return f"frozen {name}"


@attrs.frozen
class Memory:
    """What a step has allocated when it is most."""

    peak_bytes: int
    by_category: Mapping[str, int]

    def need_bytes(self, backend: str, *, grows: bool = False) -> int:
        """What the device must have, see `device_bytes`."""
        return device_bytes(self.peak_bytes, backend, grows=grows)
