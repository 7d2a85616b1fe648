"""torch's allocator: how much it may take, and whether it has heard of its settings."""

from __future__ import annotations

from collections.abc import Callable

from bigrun.devices import Setting

__all__ = ["allocator_evidence", "limit_memory"]

NAME = "memory limit"


def limit_memory(
    limit_bytes: int, total_bytes: int, reason: str, *, is_custom: bool
) -> tuple[Setting, Callable[[], None]]:
    """Let torch take no more than this: beyond it an allocation fails in this process alone, where otherwise the host
    would have no memory left. The allocator gives back unused blocks only below a limit, so there is one in any case.

    Returns:
        The row, and what undoes it.
    """
    import torch

    memory = torch.cuda.memory
    before = memory.get_per_process_memory_fraction()
    fraction = min(limit_bytes / total_bytes, 1.0)
    memory.set_per_process_memory_fraction(fraction)
    after = memory.get_per_process_memory_fraction()
    row = Setting(
        NAME,
        in_gib(before * total_bytes),
        in_gib(fraction * total_bytes),
        abs(after - fraction) < 1e-3,
        f"get_per_process_memory_fraction() is {after:.3f}; {reason}",
        is_custom,
    )
    return row, lambda: memory.set_per_process_memory_fraction(before)


def in_gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def allocator_evidence(wanted: str, *, torch_was_there: bool) -> tuple[bool | None, str]:
    """Whether torch's allocator has taken `option:value,...`, by its own snapshot; None where it does not tell."""
    import torch

    try:
        settings = torch.cuda.memory._snapshot()["allocator_settings"]
    except (AttributeError, KeyError, RuntimeError) as error:
        return None, f"torch does not tell its allocator's settings ({type(error).__name__})"
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
    late = ": torch was imported before it was set" if torch_was_there else ""
    return not unlike, f"{source}: {', '.join(unlike)}{late}" if unlike else source
