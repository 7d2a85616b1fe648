"""The order of the images: a pseudo-random permutation per epoch, computed and never stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from bigrun.data.draws import derive_seed, philox

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset

__all__ = ["EpochOrder", "Order", "order_of"]

# Four rounds make a large Feistel network a pseudo-random permutation (Luby and Rackoff, 1988). Few images need more:
# over 40,000 epochs of 5 images, chi-square of the 120 permutations was 1570 after 6 rounds, 540 after 8 and stays
# near 350 from 10 on. That rest is parity: a Feistel network on 16 or more elements is always an even permutation.
ROUNDS = 12

Indices = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


class Order(Protocol):
    """Which image stands at which position. A position counts the images consumed since the start of the run.

    A pure function, so that it is the same for any number of workers and needs nothing saved; pickled once to each. It
    may also have `substitutes(index) -> (n,) int64`: images of which one is to take the place of an image that cannot
    be used, where what the order promises would not hold with any other; without it, or where 10 of them cannot be
    used, it is one of all images.
    """

    def index(self, position: npt.ArrayLike) -> tuple[Indices, Indices]:
        """Epochs and indices of positions (any shape), both int64 of that shape.

        No pair of epoch and index comes twice: what happens to an image is drawn from it.
        """
        ...


def order_of(dataset: Dataset, seed: int, effective_batch: int) -> Order:
    """The data set's own order, or a permutation of all images in every epoch."""
    own = getattr(dataset, "order", None)
    order: Order = EpochOrder(len(dataset), seed) if own is None else own(seed, effective_batch)
    return order


class EpochOrder:
    """A permutation of `length` images for every epoch, a function of (seed, epoch) alone.

    A position counts the images consumed since the start of the run; position p is the p % length-th image of
    epoch p // length. So the order needs no memory, can start anywhere, and is the same for any number of workers.

    A balanced Feistel network permutes the smallest domain of 4**k elements that holds all images; a value outside
    the images is permuted again until it falls inside (cycle walking; Black and Rogaway, "Ciphers with arbitrary
    finite domains", 2002), which takes fewer than four turns on average.
    """

    def __init__(self, length: int, seed: int) -> None:
        """Raises: ValueError when `length` is not in [1, 2**62]."""
        if not 1 <= length <= 2**62:
            raise ValueError(f"expected a length from 1 to 2**62, got {length}")
        self.length = length
        self.seed = seed
        self.half_bits = np.uint64(max(1, ((length - 1).bit_length() + 1) // 2))

    def index(self, position: npt.ArrayLike) -> tuple[Indices, Indices]:
        """Epochs and indices of positions (any shape), both int64 of that shape. Raises ValueError below 0."""
        positions = np.asarray(position, dtype=np.int64)
        if positions.size and positions.min() < 0:
            raise ValueError(f"expected positions of at least 0, got {positions.min()}")
        epochs, places = np.divmod(positions, self.length)
        distinct, of_epoch = np.unique(epochs.ravel(), return_inverse=True)
        keys = self._round_keys(distinct)[:, of_epoch]
        values = places.ravel().astype(np.uint64)
        walking = np.arange(values.size)
        while walking.size:
            values[walking] = self._permute(values[walking], keys[:, walking])
            walking = walking[values[walking] >= self.length]
        return epochs, values.astype(np.int64).reshape(positions.shape)

    def _round_keys(self, epochs: Indices) -> Words:
        """(ROUNDS, epochs) random 64-bit words."""
        turn, epoch = np.meshgrid(np.arange(ROUNDS), epochs, indexing="ij")
        key = derive_seed(self.seed, "order")
        high, low, _, _ = philox([epoch & 0xFFFFFFFF, epoch >> 32, turn, 0 * turn], (key >> 32, key & 0xFFFFFFFF))
        keys: Words = (high << np.uint64(32)) | low
        return keys

    def _permute(self, values: Words, keys: Words) -> Words:
        """One pass of the network over 2 * half_bits bits. values (n,), keys (ROUNDS, n)."""
        mask = (np.uint64(1) << self.half_bits) - np.uint64(1)
        left, right = values >> self.half_bits, values & mask
        for key in keys:
            left, right = right, left ^ (mix(right + key) & mask)
        return (left << self.half_bits) | right


def mix(words: Words) -> Words:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): each output bit depends on all input bits."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Words = words ^ (words >> np.uint64(31))
    return mixed
