"""What torch's allocator for GPUs says of its own settings."""

from __future__ import annotations

from typing import Any

__all__ = ["allocator_settings"]


def allocator_settings() -> dict[str, Any] | None:
    """`expandable_segments`, `garbage_collection_threshold` and others, as the allocator has them now; no GPU is needed
    for that. None where there is no such allocator, as in a build for the CPU, or where it does not tell.
    """
    import torch

    try:
        return dict(torch.cuda.memory._snapshot()["allocator_settings"])
    except (AttributeError, KeyError, RuntimeError):
        return None
