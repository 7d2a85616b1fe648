"""An order for samples in groups: laws that hold for any groups, batches, weights and stacks."""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bigrun.data.dataset import Dataset
from bigrun.data.decoder import Decoder
from bigrun.data.faults import BadImageError
from bigrun.data.group_order import LANES, GroupOrder
from bigrun.data.order import EpochOrder, order_of
from bigrun.data.visits import most_of_a_group, shares, visits_per_round
from bigrun.testing.runner import SyntheticImages

Ints = npt.NDArray[np.int64]

sizes_lists = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def groups_of(sizes: list[int], seed: int = 0) -> Ints:
    """The group of each sample, in any order of samples."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


@st.composite
def orders(draw: st.DrawFn) -> tuple[GroupOrder, Ints]:
    sizes = draw(sizes_lists)
    groups = groups_of(sizes, draw(st.integers(0, 3)))
    weights = draw(st.none() | st.lists(st.floats(0.01, 100), min_size=len(sizes), max_size=len(sizes)))
    order = GroupOrder(
        groups, draw(st.integers(0, 2**31)), draw(st.integers(1, 20)), weights=weights, stack=draw(st.integers(1, 9))
    )
    return order, groups


def block(order: GroupOrder) -> int:
    """Positions after which every lane has finished its visit."""
    return order.lanes * order.stack


@settings(deadline=None, max_examples=25)
@given(orders())
def test_a_batch_has_no_more_of_a_group_than_must_be(made: tuple[GroupOrder, Ints]) -> None:
    order, groups = made
    count = 3 * LANES * order.stack
    _, indices = order.index(np.arange(count * order.batch))
    for batch in groups[indices].reshape(count, order.batch).tolist():
        assert max(Counter(batch).values()) <= order.most_of_a_group
    assert (order.most_of_a_group == 1) == (len(order.sizes) >= order.batch)


class Damaged(SyntheticImages):
    """Every seventh sample cannot be used."""

    def __getitem__(self, index: int, /) -> Tensor:
        if index % 7 == 0:
            raise BadImageError(f"{index}.png", "empty", "it has no bytes")
        return super().__getitem__(index)


@pytest.mark.parametrize("micro_batch", [2, 6])
def test_a_replacement_is_of_the_same_group(micro_batch: int) -> None:
    """So that a batch has no more of a group; but any sample where all of the group is damaged."""
    groups = np.append(groups_of([12] * 8), [0, 0, 8])
    order = GroupOrder(groups, 0, 6, stack=2)
    decoder = Decoder(Damaged(len(groups)), order, micro_batch, 3, 0)
    taken = [decoder(position) for position in range(0, 600, micro_batch)]
    used, (_, due) = np.concatenate([batch.indices for batch in taken]), order.index(np.arange(600))
    assert (used % 7 != 0).all()
    assert (due[due % 7 != 0] == used[due % 7 != 0]).all()
    assert (groups[due] == groups[used])[due != 98].all()
    assert 98 in due
    pairs = zip(np.concatenate([batch.epochs for batch in taken]).tolist(), used.tolist(), strict=True)
    assert len(set(pairs)) == 600


@settings(deadline=None, max_examples=25)
@given(orders())
def test_no_epoch_has_a_sample_twice_and_each_has_all_of_them(made: tuple[GroupOrder, Ints]) -> None:
    order, groups = made
    epochs, indices = order.index(np.arange(4 * block(order)))
    pairs = set(zip(epochs.tolist(), indices.tolist(), strict=True))
    assert len(pairs) == epochs.size
    assert epochs.min() == 0
    for group, size in enumerate(order.sizes.tolist()):
        newest = max((e for e, i in pairs if groups[i] == group), default=0)
        for epoch in range(newest - 1 - order.stack // size):
            members = {i for e, i in pairs if e == epoch and groups[i] == group}
            assert members == set(np.flatnonzero(groups == group).tolist())


@settings(deadline=None, max_examples=25)
@given(made=orders(), first=st.integers(0, 10**6), micro=st.integers(1, 50))
def test_it_is_a_function_of_the_position_alone(made: tuple[GroupOrder, Ints], first: int, micro: int) -> None:
    order, _ = made
    positions = first + np.arange(150)
    whole = np.stack(order.index(positions))
    copy = pickle.loads(pickle.dumps(order))
    parts = [copy.index(positions[k : k + micro]) for k in reversed(range(0, 150, micro))]
    assert np.array_equal(whole, np.concatenate([np.stack(part) for part in reversed(parts)], axis=1))
    assert all(order.index(int(positions[7]))[k] == whole[k, 7] for k in (0, 1))


@settings(deadline=None, max_examples=25)
@given(orders())
def test_a_round_has_every_group_as_often_as_its_weight_says(made: tuple[GroupOrder, Ints]) -> None:
    order, groups = made
    visits = int(order.visits.sum())
    for number in (0, 3):
        dealt, nth = order._deal(number)
        assert np.bincount(dealt, minlength=len(order.sizes)).tolist() == order.visits.tolist()
        for group in range(len(order.sizes)):
            assert nth[dealt == group].tolist() == list(range(order.visits[group]))  # in the order of time
    if visits % order.lanes == 0:
        _, indices = order.index(np.arange(visits * order.stack))
        assert np.bincount(groups[indices]).tolist() == (order.visits * order.stack).tolist()


@settings(deadline=None)
@given(
    weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40), batch=st.integers(1, 50), about=st.integers(1, 500)
)
def test_visits_are_whole_shares(weights: list[float], batch: int, about: int) -> None:
    wanted = shares(np.array(weights), batch)
    most = most_of_a_group(len(weights), batch)
    assert wanted.sum() == pytest.approx(batch)
    assert wanted.max() <= most * (1 + 1e-9)
    free = wanted < most * (1 - 1e-9)
    if free.any() and wanted[free].min() > 0:  # the groups that get what they are due keep their proportions
        assert np.allclose(wanted[free] / np.array(weights)[free], (wanted[free] / np.array(weights)[free])[0])
    visits = visits_per_round(np.array(weights), batch, about)
    rounds, rest = divmod(int(visits.sum()), batch)
    assert rest == 0
    assert visits.sum() >= max(about, len(weights))
    assert 1 <= visits.min() <= visits.max() <= rounds * most
    if (wanted * rounds >= 1).all():
        assert np.abs(visits - wanted * rounds).max() < 1 + 1e-6


def test_two_seeds_and_two_rounds_are_different() -> None:
    groups = groups_of([20] * 50)
    one, other = (GroupOrder(groups, seed, 8).index(np.arange(400))[1] for seed in (0, 1))
    assert (one == other).mean() < 0.1
    order = GroupOrder(groups, 0, 8)
    first, second = (order.index(np.arange(400) + k * int(order.visits.sum()))[1] for k in (0, 1))
    assert (first == second).mean() < 0.1


def test_groups_meet_by_chance() -> None:
    """In a batch of 8 out of 40 equal groups two groups meet with probability 8/40 * 7/39."""
    order = GroupOrder(groups_of([30] * 40), 5, 8)
    table = np.zeros((40, 40))
    batches = 0
    for number in range(40):
        for batch in order._deal(number)[0].reshape(-1, 8):
            table[np.ix_(batch, batch)] += 1
            batches += 1
    met = table[np.triu_indices(40, 1)] / batches
    assert met.mean() == pytest.approx(8 / 40 * 7 / 39)
    chance = np.sqrt(met.mean() * (1 - met.mean()) / batches)
    assert met.std() < 2.2 * chance


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_neighbours_are_decoded_once(workers: int) -> None:
    """Of three neighbours per sample, one and a quarter are new to a worker that remembers three slices per lane."""
    order = GroupOrder(np.repeat(np.arange(200), 100), 0, 16, stack=8)
    assert order.stack == 8
    micro = 4
    remembered: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(workers)]
    decoded = samples = 0
    for number, first in enumerate(range(0, 2 * block(order), micro)):
        memory = remembered[number % workers]
        for index in order.index(first + np.arange(micro))[1].tolist():
            samples += 1
            for near in (index - 1, index, index + 1):
                decoded += near not in memory
                memory[near] = None
                memory.move_to_end(near)
                if len(memory) > 3 * order.lanes // workers + 6:
                    memory.popitem(last=False)
    assert 1.2 < decoded / samples < 1.32


def test_stacks_become_shorter_where_there_are_few_samples() -> None:
    assert GroupOrder(np.repeat(np.arange(2), [48, 61]), 0, 32, stack=8).stack == 1
    assert GroupOrder(np.repeat(np.arange(40), 10), 0, 16, stack=8).stack == 3
    assert GroupOrder(np.repeat(np.arange(400), 10), 0, 16, stack=8).stack == 8
    assert GroupOrder(np.repeat(np.arange(400), 5), 0, 16, stack=8).stack == 5  # no group has more


def test_groups_of_one_sample_are_no_stacks() -> None:
    order = GroupOrder(np.arange(1000), 0, 4, stack=8)
    assert order.stack == 1
    _, indices = order.index(np.arange(1000))
    assert len(set(indices.tolist())) == 1000


@pytest.mark.parametrize(
    ("groups", "weights"),
    [([], None), ([0, 2], None), ([-1, 0], None), ([0, 1], [1.0]), ([0, 1], [1.0, 0.0]), ([0], [float("nan")])],
)
def test_what_is_no_set_of_groups_is_refused(groups: list[int], weights: list[float] | None) -> None:
    with pytest.raises(ValueError, match="expected"):
        GroupOrder(groups, 0, 4, weights=weights)


def test_a_position_before_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        GroupOrder([0, 0], 0, 2).index([0, -1])


class Ordered(SyntheticImages):
    def order(self, seed: int, effective_batch: int) -> GroupOrder:
        return GroupOrder(np.arange(len(self)) % 3, seed, effective_batch)


def test_a_data_set_without_an_order_has_permutations() -> None:
    plain: Dataset = SyntheticImages()
    assert isinstance(order_of(plain, 0, 4), EpochOrder)
    own = order_of(Ordered(), 7, 4)
    assert isinstance(own, GroupOrder)
    assert (own.seed, own.batch) == (7, 4)
