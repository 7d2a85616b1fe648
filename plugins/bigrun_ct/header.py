"""What the run's header says of the slices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bigrun.data.faults import BadImageError
from bigrun.data.group_order import GroupOrder
from bigrun_ct.dataset import MIB, SliceDataset

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["slice_lines"]


def slice_lines(run: Run) -> Iterator[str]:
    """How diverse a batch is, what is kept in memory, and options that were made for photographs."""
    dataset, config = run.dataset, run.config
    if not isinstance(dataset, SliceDataset):
        return
    order = dataset.order(config.run.seed, config.data.effective_batch)
    groups, most = len(order.sizes), order.most_of_a_group
    series = len(np.unique(dataset.series.number[dataset.centres]))
    short = f" ({series:,}, of which those of fewer than {order.stack} slices are joined)" * (groups < series)
    share = "one slice" if most == 1 else f"at most {most} slices: there are fewer series than samples in a batch"
    stack = f"{order.stack} neighbours follow each other on a lane" if order.stack > 1 else "no stacks"
    yield f"order        each batch has of each of {groups:,} series{short} {share}; {stack}"
    yield from cache_lines(dataset, order, max(config.data.workers, 1))
    photographic = [
        f"views.{name}"
        for name in ("colour_probability", "grayscale_probability", "solarise_probability")
        if getattr(config.views, name) > 0
    ]
    if photographic:
        yield f"warning      {', '.join(photographic)}: made for photographs; expected 0 for CT"


def cache_lines(dataset: SliceDataset, order: GroupOrder, workers: int) -> Iterator[str]:
    """Whether the slices that are needed again stay in the workers' memory until then."""
    if order.stack == 1:
        return
    held = min(dataset.channels * order.lanes // workers, len(dataset.files))
    try:
        needed = held * dataset.slice(int(dataset.centres[0])).nbytes / MIB
    except BadImageError:  # whoever counts such files will say so
        return
    limit = dataset.config.cache_mib
    if needed > limit:
        yield (
            f"warning      plugins.ct-slices.cache_mib = {limit}: slices are decoded more than once; about "
            f"{needed:,.0f} MiB in each of {workers} workers would keep them"
        )
