"""Which slice is seen when: stacks as long as they are of use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bigrun.data.group_order import GroupOrder, stack_that_fits

if TYPE_CHECKING:
    from bigrun_ct.dataset import SliceDataset

__all__ = ["is_as_at_first", "slice_order"]

Ints = npt.NDArray[np.int64]


def slice_order(dataset: SliceDataset, seed: int, effective_batch: int) -> GroupOrder:
    """Diverse in series, data sets by weight.

    There are no stacks where samples share no slice. A series of fewer samples than a stack is one group with the
    next of its data set: alone, its few slices would come again and again until the stack is full.
    """
    series, sizes, sets, weights = facts_of(dataset)
    wanted = dataset.config.stack_slices if dataset.config.z_stride < dataset.channels else 1
    stack = stack_that_fits(wanted, sizes, effective_batch)
    group = joined(sizes, sets, stack)
    return GroupOrder(group[series], seed, effective_batch, weights=np.bincount(group, weights=weights), stack=stack)


def is_as_at_first(dataset: SliceDataset, order: GroupOrder) -> bool:
    """Whether it is also the order of the first version, whose stacks were as long as they were set for any slices."""
    _, sizes, _, _ = facts_of(dataset)
    stack = max(1, min(dataset.config.stack_slices, len(dataset) // order.lanes))
    return order.stack == stack and len(order.sizes) == len(sizes)


def facts_of(dataset: SliceDataset) -> tuple[Ints, Ints, Ints, npt.NDArray[np.float64]]:
    """The series (N,) of each sample, numbered by data set; and of each series its samples, data set and weight."""
    numbers, of_sample = dataset.series.number[dataset.centres], dataset.series.dataset[dataset.centres]
    _, first, series = np.unique(numbers, return_index=True, return_inverse=True)
    sizes, sets = np.bincount(series), of_sample[first]
    slices = np.bincount(of_sample)[sets].astype(np.float64)
    return series, sizes, sets, sizes / slices * slices ** (1 / dataset.config.temperature)


def joined(sizes: Ints, sets: Ints, stack: int) -> Ints:
    """(series,) groups from 0 of at least `stack` samples, each of series that follow each other in a data set.

    A group is smaller where all of a data set is.
    """
    group, number, held = np.empty(len(sizes), dtype=np.int64), -1, 0
    for k, size in enumerate(sizes.tolist()):
        if k == 0 or sets[k] != sets[k - 1] or held >= stack:
            number, held = number + 1, 0
        group[k] = number
        held += size
    set_of = sets[np.flatnonzero(np.diff(group, prepend=-1))]
    is_rest = (np.bincount(group, weights=sizes) < stack) & (np.diff(set_of, prepend=-1) == 0)
    result: Ints = group - np.cumsum(is_rest)[group]
    return result
