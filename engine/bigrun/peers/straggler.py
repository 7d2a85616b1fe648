"""Which process of several makes the others wait, and whether by computing or by waiting for its images."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from bigrun.markers import hookimpl
from bigrun.peers.pace import Spell

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["RANKS", "Straggler", "of_ranks"]

RANKS = (
    "ranks/slowest",
    "ranks/compute_seconds_median",
    "ranks/compute_seconds_max",
    "ranks/data_wait_seconds_median",
    "ranks/data_wait_seconds_max",
)
"""Names of what `of_ranks` gives."""
TOO_MUCH, LITTLE = 0.1, 0.05
"""Share of a step that all wait for one; and from which on it is over, so that the next time is said again."""
ROWS, STEPS = 3, 10
"""So many in a row: on a busy machine one is slower for a while, and then another one."""


def of_ranks(spells: Sequence[Spell]) -> dict[str, float]:
    """Metrics of several processes, by rank: see docs/reference/metrics.md. The median of two is the smaller one."""
    own, data = [spell.own_seconds for spell in spells], [spell.data_seconds for spell in spells]
    slowest = max(range(len(spells)), key=lambda rank: own[rank] + data[rank])
    values = slowest, statistics.median_low(own), max(own), statistics.median_low(data), max(data)
    return dict(zip(RANKS, map(float, values), strict=True))


class Straggler:
    """The hook of the engine's own plugin that names a process for which the others wait, once until that is over."""

    _rank: int | None = None
    _rows = _steps = 0
    _is_said = False

    @hookimpl(specname="on_metrics")
    def compare_processes(self, run: Run, metrics: Mapping[str, float]) -> None:
        spells = run.metrics.spells
        if "ranks/slowest" not in metrics or not spells[0].steps:
            return
        rank = int(metrics["ranks/slowest"])
        step = statistics.fmean(spell.step_seconds for spell in spells)
        compute = excess(spells, rank, lambda spell: spell.own_seconds)
        data = excess(spells, rank, lambda spell: spell.data_seconds)
        share = (compute + data) / max(step, 1e-9)
        if share < LITTLE or rank != self._rank:
            self._rank, self._rows, self._steps, self._is_said = rank, 0, 0, False
        if share > TOO_MUCH:
            self._rows, self._steps = self._rows + 1, self._steps + spells[0].steps
        if share > TOO_MUCH and self._rows >= ROWS and self._steps >= STEPS and not self._is_said:
            self._is_said = True
            tell(run, rank, "data" if data > compute else "compute", max(compute, data), step, share)


def excess(spells: Sequence[Spell], rank: int, seconds: Callable[[Spell], float]) -> float:
    """Of one process, above the median of all."""
    return seconds(spells[rank]) - statistics.median_low(map(seconds, spells))


def tell(run: Run, rank: int, cause: str, seconds: float, step_seconds: float, share: float) -> None:
    what = {
        "data": f"waits {seconds:.3g} s longer for its images in each step: look at its disk, network and workers",
        "compute": f"works {seconds:.3g} s longer in each step: look at its device, clocks and what else runs there",
    }
    run.event(
        "straggler",
        f"{run.peers.name(rank)} makes the others wait for {share:.0%} of the time: it {what[cause]}",
        "warning",
        rank=rank,
        host=run.peers.hosts[rank],
        cause=cause,
        excess_seconds=round(seconds, 4),
        step_seconds=round(step_seconds, 4),
    )
