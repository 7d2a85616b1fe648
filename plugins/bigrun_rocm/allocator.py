"""torch's allocator: how much it may take, and whether it has heard of its settings."""

from __future__ import annotations

from collections.abc import Callable

from bigrun.devices import Setting
from bigrun.devices.allocator import allocator_settings

__all__ = ["LARGEST_FRACTION", "allocator_evidence", "is_limited", "limit_memory"]

NAME = "memory limit"
COLLECTION = "garbage_collection_threshold"
LARGEST_FRACTION = 0.99
"""torch takes 1 for no limit at all, and gives no unused block back without one (c10/cuda/CUDACachingAllocator.cpp: the
threshold is of the limit, which is there for fractions below 1 alone)."""
EXACT = 1e-3
SCOPE = "for torch's allocator alone: libraries and other processes have no limit"


def is_limited(fraction: float) -> bool:
    """Whether torch's allocator has a limit."""
    return fraction < 1


def limit_memory(
    limit_bytes: int, total_bytes: int, reason: str, *, is_custom: bool
) -> tuple[Setting, float, Callable[[], None] | None]:
    """Let torch's allocator take no more than this, and no more than 99 % of the device: beyond it an allocation fails
    in this process alone, where otherwise the host would have no memory left. A limit that is there already stays,
    unless an option says another.

    Args:
        total_bytes: of the device, as torch counts it (`total_memory` of its properties).
        is_custom: an option of the plugin says so.

    Returns:
        The row, the fraction that is allowed now, and what undoes it.
    """
    import torch

    memory = torch.cuda.memory
    before = memory.get_per_process_memory_fraction()
    was = shown(before, total_bytes)
    if is_limited(before) and not is_custom:
        told = f"get_per_process_memory_fraction() was {before:.3f} before this plugin"
        return Setting(NAME, was, was, None, told, is_custom=True), before, None
    fraction = min(limit_bytes / total_bytes, LARGEST_FRACTION)
    memory.set_per_process_memory_fraction(fraction)
    after = memory.get_per_process_memory_fraction()
    took = is_limited(after) and abs(after - fraction) < EXACT
    evidence = f"get_per_process_memory_fraction() is {after:.3f}; {reason}, {SCOPE}"
    row = Setting(NAME, was, shown(fraction, total_bytes), took, evidence, is_custom)
    return row, after, lambda: memory.set_per_process_memory_fraction(before)


def shown(fraction: float, total_bytes: int) -> str:
    return f"{fraction * total_bytes / 2**30:.1f} GiB" if is_limited(fraction) else "none"


def allocator_evidence(wanted: str, fraction: float, *, torch_was_there: bool) -> tuple[bool | None, str]:
    """Whether torch's allocator has taken `option:value,...`, by its own word; None where it does not tell.

    Args:
        fraction: of the device that it may take.
    """
    settings = allocator_settings()
    if settings is None:
        return None, "torch does not tell its allocator's settings"
    unlike = []
    for part in wanted.split(","):
        name, _, value = part.partition(":")
        found = settings.get(name)
        if found is None:
            return None, f"torch's allocator does not tell its {name}"
        is_same = str(found) == value if isinstance(found, bool) else abs(float(found) - float(value)) < 1e-6
        if not is_same:
            unlike.append(f"{name} is {found}")
    source = "torch.cuda.memory._snapshot()"
    if unlike:
        late = ": torch was imported before it was set" if torch_was_there else ""
        return False, f"{source}: {', '.join(unlike)}{late}"
    if COLLECTION in wanted and not is_limited(fraction):
        return False, f"{source}; but without a memory limit torch gives no unused block back"
    return True, source
