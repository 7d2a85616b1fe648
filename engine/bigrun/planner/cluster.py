"""A plan of several processes: what they send, and how long a step takes with it. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from bigrun.planner.communication import Collective, sent_bytes
from bigrun.planner.efficiency import Efficiency, communication_seconds
from bigrun.planner.links import Links
from bigrun.planner.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ASSUMED_MFU", "Cluster", "Computing", "computing"]

ASSUMED_MFU = 0.4
"""Share of the peak that training reaches, where nobody says another: an assumption. Published for large transformers:
0.38 to 0.43 (arXiv 2407.21783, table 4), 0.46 (arXiv 2204.02311, table 3)."""


@attrs.frozen
class Computing:
    """Of each process in a step."""

    seconds: float
    source: str


@attrs.frozen
class Cluster:
    """One number of processes."""

    plan: Plan
    links: Links
    computing: Computing | None
    """None where the speed is not known."""

    @property
    def collectives(self) -> Sequence[Collective]:
        return self.plan.traffic

    @property
    def sent_bytes(self) -> float:
        """By each process in a step, and as many received."""
        return sent_bytes(self.collectives)

    @property
    def communication_seconds(self) -> float:
        return communication_seconds(self.collectives, self.plan.sharing, self.links)

    @property
    def efficiency(self) -> Efficiency | None:
        if self.computing is None:
            return None
        return Efficiency(self.computing.seconds, self.communication_seconds)

    def per_second(self, step_seconds: float) -> float:
        """Images of all processes together."""
        return self.plan.effective_batch / step_seconds


def computing(plan: Plan, step_seconds: float | None, mfu: float) -> Computing | None:
    """As it was measured, else stated, else of the data sheet.

    Args:
        step_seconds: of one process alone with the same effective batch.
        mfu: share of the peak that training reaches, where only the peak is known.
    """
    processes = plan.sharing.processes
    if step_seconds is not None:
        return Computing(step_seconds / processes, f"a step of one process takes {step_seconds:g} s (stated)")
    flops = plan.flops_per_image
    if flops is None:
        return None
    images = plan.effective_batch / processes
    if plan.images_per_second is not None:
        source = f"{plan.tflops:g} TFLOP/s, stated" if plan.tflops is not None else "the speed that was measured"
        return Computing(images / plan.images_per_second, source)
    if plan.gpu is not None:
        speed = 1e12 * plan.gpu.peak_tflops * mfu
        source = f"{mfu:g} of the {plan.gpu.name}'s peak of {plan.gpu.peak_tflops:g} TFLOP/s"
        return Computing(images * flops / speed, source + (", an assumption" if mfu == ASSUMED_MFU else ", stated"))
    return None
