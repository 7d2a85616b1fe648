"""Random numbers as a pure function of (seed, purpose, counters): nothing to save, nothing to keep in step.

Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

__all__ = ["derive_seed", "philox", "uniforms"]

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW_WORD = np.uint64(0xFFFFFFFF)
WORD = np.uint64(32)


def philox(counter: npt.ArrayLike, key: tuple[int, int]) -> npt.NDArray[np.uint64]:
    """Philox4x32-10: `counter` (4, ...) of 32-bit words and two key words give (4, ...) random 32-bit words.

    Words are held in uint64, which numpy needs for the high half of a product.
    """
    x0, x1, x2, x3 = np.asarray(counter, dtype=np.uint64)
    for turn in range(ROUNDS):
        key0, key1 = (np.uint64((k + turn * weyl) & 0xFFFFFFFF) for k, weyl in zip(key, WEYL, strict=True))
        product0, product1 = MULTIPLIERS[0] * x0, MULTIPLIERS[1] * x2
        x0, x1 = (product1 >> WORD) ^ x1 ^ key0, product1 & LOW_WORD
        x2, x3 = (product0 >> WORD) ^ x3 ^ key1, product0 & LOW_WORD
    return np.stack([x0, x1, x2, x3])


def uniforms(seed: int, purpose: str, *counters: npt.ArrayLike, count: int) -> npt.NDArray[np.float64]:
    """`count` independent numbers for each combination of counters.

    Args:
        seed: seed of the run.
        purpose: names the use; two purposes give unrelated numbers.
        counters: at most three integer arrays that broadcast together, values in [0, 2**32).
        count: numbers per combination.

    Returns:
        (*broadcast shape, count) float64 in [0, 1), multiples of 2**-53.

    Raises:
        ValueError: too many counters, or one outside [0, 2**32).
    """
    if len(counters) > 3:
        raise ValueError(f"expected at most 3 counters, got {len(counters)}")
    blocks = -(-count // 2)
    words = np.broadcast_arrays(*(np.asarray(c, dtype=np.int64)[..., None] for c in counters), np.arange(blocks))
    if any(word.size and (word.min() < 0 or word.max() >= 2**32) for word in words):
        raise ValueError("expected counters from 0 to 2**32 - 1")
    shape = words[0].shape
    unused = [np.zeros(shape, dtype=np.int64)] * (4 - len(words))
    key = digest(seed, purpose)
    a, b, c, d = philox(np.stack([*words, *unused]), (key >> 32, key & 0xFFFFFFFF))
    pairs = np.stack([uniform53(a, b), uniform53(c, d)], axis=-1)
    return pairs.reshape(*shape[:-1], 2 * blocks)[..., :count]


def derive_seed(seed: int, purpose: str, *counters: int) -> int:
    """An integer in [0, 2**63) to seed a generator with; any number of counters of any size."""
    return digest(seed, purpose, *counters) >> 1


def digest(seed: int, purpose: str, *counters: int) -> int:
    text = repr((int(seed), purpose, *(int(c) for c in counters)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def uniform53(high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """27 bits of one word and 26 of another, as a float64 in [0, 1)."""
    bits = ((high >> np.uint64(5)) << np.uint64(26)) | (low >> np.uint64(6))
    return bits.astype(np.float64) * 2.0**-53
