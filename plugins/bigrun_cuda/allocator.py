"""torch's allocator: whether its segments grow, by what it says itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bigrun.devices import Planned, Setting
from bigrun.devices.allocator import allocator_settings
from bigrun.planner.memory import has_growing_segments
from bigrun_cuda.plan import EXPANDABLE, plan_allocator

if TYPE_CHECKING:
    from bigrun.devices import TorchBuild
    from bigrun_cuda.config import CudaConfig

__all__ = ["allocator_row", "has_expandable_segments", "set_allocator", "will_expand"]


def will_expand(build: TorchBuild, environment: Mapping[str, str], config: CudaConfig) -> bool:
    """Whether segments will, on a machine with this torch and environment."""
    planned = plan_allocator(build, environment, config)
    if planned is None:
        return False
    return has_growing_segments(environment if planned.value is None else {planned.name: planned.value})


def has_expandable_segments() -> bool | None:
    """By the allocator's own word; None where it has none, as in a build for the CPU."""
    found = (allocator_settings() or {}).get("expandable_segments")
    return None if found is None else bool(found)


def set_allocator(settings: str) -> None:
    """Change the allocator of a process that has imported torch before: a run that goes back, or a program that uses
    bigrun as a library.

    Raises:
        AttributeError: this torch has no way to.
        RuntimeError: the allocator refuses it.
    """
    import torch

    newer = getattr(torch._C, "_accelerator_setAllocatorSettings", None)  # the other one warns from 2.15 on
    (newer or torch.cuda.memory._set_allocator_settings)(settings)


def allocator_row(
    planned: Planned, before: str | None, *, torch_was_there: bool
) -> tuple[Setting, Callable[[], None] | None]:
    """The row of the environment variable that was set before torch was imported, and what undoes more than that."""
    found = has_expandable_segments()
    if planned.value is None:
        said = "the allocator does not tell" if found is None else f"expandable_segments is {found}"
        return Setting(planned.name, before, before, True, f"{said}; {planned.reason}", planned.is_custom), None
    undo = None
    if found is False and torch_was_there:
        try:
            set_allocator(EXPANDABLE)
            undo = _undo
        except (AttributeError, RuntimeError) as error:
            evidence = f"torch was imported before, and its allocator cannot be changed any more: {error}"
            return Setting(planned.name, before, planned.value, False, evidence, planned.is_custom), None
        found = has_expandable_segments()
    told = "does not tell its settings" if found is None else f"says expandable_segments = {found}"
    evidence = f"torch.cuda.memory._snapshot() {told}; {planned.reason}"
    return Setting(planned.name, before, planned.value, found, evidence, planned.is_custom), undo


def _undo() -> None:
    set_allocator("expandable_segments:False")
