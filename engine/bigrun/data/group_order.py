"""An order for samples that come in groups, as the slices of a series: diverse batches, few files decoded twice.

Words. A *batch* is an effective batch. A *stack* is a run of samples that follow each other in their group. A *visit*
is one stack of one group. A *lane* is one place in one of 8 batches: it works through a visit, one sample per turn, and
then gets the next one. A *round* is a number of batches in which every group has a fixed number of visits.

Which visit a lane gets is decided for whole batches of lanes at a time, so that their groups differ; docs/explanation/
order-of-samples.md has the reasons.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from bigrun.data.draws import uniforms
from bigrun.data.visits import most_of_a_group, visits_per_round

__all__ = ["GroupOrder", "stack_that_fits"]

LANES = 8  # batches whose lanes are at work together; 1, 2, 4 and 8 workers each keep the same lanes
ROUND = 2**20  # visits of a round at most: 0.3 s and 20 MB to deal

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def stack_that_fits(stack: int, sizes: Ints, effective_batch: int) -> int:
    """A stack of at least 1: shorter where all lanes together would hold more than there are samples, and where no
    group has so many.

    Args:
        sizes: (groups,) samples of each.
    """
    return max(1, min(stack, int(sizes.max()), int(sizes.sum()) // (LANES * effective_batch)))


class GroupOrder:
    """Batches with at most one sample of a group, or as few as possible; groups by weight; neighbours near each other.

    A function of (seed, position) for a fixed batch. Every group is gone through again and again, each time all of it
    before the next time begins (but for a stack that reaches over the end): the number of that time is the sample's
    epoch, so no pair (epoch, index) comes twice.
    """

    def __init__(
        self,
        groups: npt.ArrayLike,
        seed: int,
        effective_batch: int,
        *,
        weights: npt.ArrayLike | None = None,
        stack: int = 1,
    ) -> None:
        """
        Args:
            groups: (N,) integers from 0: the group of each sample. Samples of a group follow each other in the order
                of their indices.
            weights: (groups,) how often a group's samples are drawn, relative to the others'; by their number if not
                given. A group that would have more than its share of every batch has just that.
            stack: samples of a visit; see `stack_that_fits`. A group of fewer samples is gone through several times in
                a visit.

        Raises:
            ValueError: no samples, a group without samples, or a weight that is not above 0.
        """
        numbers = np.asarray(groups, dtype=np.int64)
        if numbers.size == 0 or numbers.min() < 0:
            raise ValueError("expected the group of at least one sample, numbered from 0")
        self.sizes = np.bincount(numbers)
        wanted = self.sizes.astype(np.float64) if weights is None else np.asarray(weights, dtype=np.float64)
        if self.sizes.min() == 0 or wanted.shape != self.sizes.shape or not (wanted > 0).all():
            raise ValueError("expected samples in every group, and a weight above 0 for each")
        self.seed = seed
        self.batch = effective_batch
        self.lanes = LANES * effective_batch
        self.stack = stack_that_fits(stack, self.sizes, effective_batch)
        self.members = np.argsort(numbers, kind="stable")
        self.firsts = np.cumsum(self.sizes) - self.sizes
        self.visits = visits_per_round(wanted, effective_batch, min(numbers.size, ROUND))
        self.batches_per_round = int(self.visits.sum()) // effective_batch
        self._begin()

    def _begin(self) -> None:
        self._deal = functools.lru_cache(maxsize=2)(self._deal_round)
        self._pass = functools.lru_cache(maxsize=4096)(self._draw_pass)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name not in ("_deal", "_pass")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._begin()

    @property
    def most_of_a_group(self) -> int:
        """Samples of one group in a batch, at most."""
        return most_of_a_group(len(self.sizes), self.batch)

    def index(self, position: npt.ArrayLike) -> tuple[Ints, Ints]:
        """Epochs and indices of positions (any shape), both int64 of that shape. Raises ValueError below 0."""
        positions = np.asarray(position, dtype=np.int64)
        if positions.size and positions.min() < 0:
            raise ValueError(f"expected positions of at least 0, got {positions.min()}")
        turn, lane = np.divmod(positions.ravel(), self.lanes)
        round_of, places = np.divmod(turn // self.stack * self.lanes + lane, self.visits.sum())
        group, visit = np.empty_like(places), np.empty_like(places)
        for number in np.unique(round_of).tolist():
            here = round_of == number
            groups, visits = self._deal(number)
            group[here], visit[here] = groups[places[here]], visits[places[here]]
        visit += round_of * self.visits[group]
        steps = self._shuffled(group, visit) * self.stack + turn % self.stack  # samples of the group that come before
        epochs, inside = np.divmod(steps, self.sizes[group])
        start = uniforms(self.seed, "first of a group", group, count=1)[..., 0]
        inside = (inside + (start * self.sizes[group]).astype(np.int64)) % self.sizes[group]
        indices = self.members[self.firsts[group] + inside]
        return epochs.reshape(positions.shape), indices.reshape(positions.shape)

    def substitutes(self, index: int) -> Ints:
        """(n,) the samples of an image's group: with one of these in its place a batch has no more of any group."""
        group = np.searchsorted(self.firsts, np.flatnonzero(self.members == index)[0], side="right") - 1
        return self.members[self.firsts[group] :][: self.sizes[group]]

    def _deal_round(self, number: int) -> tuple[Ints, Ints]:
        """Group, and how manieth of its visits in this round, of the visits (batches * batch,) of a round, in order.

        McNaughton's wrap-around rule (Management Science 6, 1959): the visits of one group after the other fill the
        columns of a table with a row for every batch and a column for every place in it. A group fills less than a
        column, so a row has it once; even where it goes on at the top of the next column.
        """
        rows, count = self.batches_per_round, len(self.sizes)
        order = np.argsort(uniforms(self.seed, "groups", number, np.arange(count), count=1)[:, 0], kind="stable")
        table = np.repeat(order, self.visits[order])  # column by column
        column = np.arange(table.size) // rows
        ends = np.cumsum(self.visits[order])
        within = np.empty(count, dtype=np.bool_)  # the group is in one column: it may be anywhere in it
        within[order] = (ends - self.visits[order]) // rows == (ends - 1) // rows
        free = np.flatnonzero(within[table])
        keys = uniforms(self.seed, "rows", number, free, count=1)[:, 0]
        table[free] = table[free[np.lexsort((keys, column[free]))]]
        batches = np.argsort(uniforms(self.seed, "batches", number, np.arange(rows), count=1)[:, 0], kind="stable")
        batch = table.reshape(-1, rows).T[batches]
        keys = uniforms(self.seed, "places", number, np.arange(table.size), count=1)[:, 0].reshape(batch.shape)
        groups = np.take_along_axis(batch, np.argsort(keys, axis=1, kind="stable"), axis=1).ravel()
        by_group = np.argsort(groups, kind="stable")
        visits = np.empty_like(groups)
        visits[by_group] = np.arange(groups.size) - np.repeat(np.cumsum(self.visits) - self.visits, self.visits)
        return groups, visits

    def _shuffled(self, group: Ints, visit: Ints) -> Ints:
        """The visits of each time that a group is gone through, in another order."""
        times = visit * self.stack // self.sizes[group]
        return np.array(
            [first + shuffled[k - first]
             for k, (first, shuffled) in zip(
                 visit.tolist(), map(self._pass, group.tolist(), times.tolist()), strict=True
             )],
            dtype=np.int64,
        )  # fmt: skip

    def _draw_pass(self, group: int, time: int) -> tuple[int, Ints]:
        """The first visit whose first sample is in this time through the group, and an order of all such visits."""
        size = int(self.sizes[group])
        first, beyond = (-(-turn * size // self.stack) for turn in (time, time + 1))
        if beyond - first < 2:
            return first, np.zeros(beyond - first, dtype=np.int64)
        keys = uniforms(self.seed, "stacks", group, time, np.arange(beyond - first), count=1)[:, 0]
        return first, np.argsort(keys, kind="stable")
