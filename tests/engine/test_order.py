from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigrun.data.order import EpochOrder

few = settings(deadline=None, max_examples=25)


def permutations(length: int, seed: int, epochs: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return EpochOrder(length, seed).index(np.arange(length * epochs))[1].reshape(epochs, length)


@few
@given(length=st.integers(1, 700), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 2**40))
def test_every_epoch_is_a_permutation(length: int, seed: int, epoch: int) -> None:
    epochs, indices = EpochOrder(length, seed).index(epoch * length + np.arange(length))
    assert (epochs == epoch).all()
    assert sorted(indices.tolist()) == list(range(length))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257, 4097])
def test_lengths_around_powers_of_two_are_permuted(length: int) -> None:
    for order in permutations(length, 0, 3):
        assert (np.sort(order) == np.arange(length)).all()


@few
@given(
    length=st.integers(1, 2**40),
    seed=st.integers(0, 2**31 - 1),
    positions=st.lists(st.integers(0, 2**50), min_size=1, max_size=5),
)
def test_a_position_is_computed_alone_or_among_others(length: int, seed: int, positions: list[int]) -> None:
    order = EpochOrder(length, seed)
    epochs, indices = order.index(positions)
    epoch, index = order.index(positions[-1])
    assert (int(epoch), int(index)) == (epochs[-1], indices[-1])
    assert epoch == positions[-1] // length
    assert ((indices >= 0) & (indices < length)).all()


def test_positions_keep_their_shape() -> None:
    epochs, indices = EpochOrder(10, 0).index(np.arange(12).reshape(3, 4))
    assert epochs.shape == indices.shape == (3, 4)
    assert epochs.dtype == indices.dtype == np.int64


def test_epochs_and_seeds_differ() -> None:
    first, second = permutations(1000, 0, 2)
    for other in (second, permutations(1000, 1, 1)[0], np.arange(1000)):
        assert (first == other).sum() < 12  # as many as two random permutations agree in: 1 expected


@pytest.mark.parametrize("length", [3, 5, 24])
def test_every_image_is_as_likely_at_every_place(length: int) -> None:
    epochs = 3000
    counts = np.stack([np.bincount(column, minlength=length) for column in permutations(length, 2, epochs).T])
    expected = epochs / length
    freedom = (length - 1) ** 2
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def test_neighbours_do_not_stay_together() -> None:
    order = permutations(5000, 4, 1)[0]
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 5 / np.sqrt(5000)
    assert (np.diff(order) == 1).sum() < 12


@pytest.mark.parametrize("length", [0, -1])
def test_no_image_has_no_order(length: int) -> None:
    with pytest.raises(ValueError, match="length"):
        EpochOrder(length, 0)


def test_a_position_before_the_start_is_refused() -> None:
    with pytest.raises(ValueError, match="positions of at least 0"):
        EpochOrder(3, 0).index([2, -1])
