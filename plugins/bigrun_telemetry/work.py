"""What a step computes, as far as its time depends on it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["kind_of_step", "moved_bytes"]

TERM = "loss/"


def kind_of_step(run: Run, step: int) -> Hashable:
    """Sides of its crops, its loss terms (a plugin may begin with one in the middle of a run), and whether the backbone
    learns. To be asked in the step, before its update; no value is looked at."""
    terms = frozenset(name for name, _ in run.metrics.items() if name.startswith(TERM))
    return (run.views.sizes_px(step), terms, step > (run.config.init.freeze_backbone_steps or 0))


def moved_bytes(run: Run) -> int:
    """Size of the decoded images of the step, which went from host to device once."""
    return sum(samples.pixels.nbytes for samples in run.samples)
