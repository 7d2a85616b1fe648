"""Images that are there more than once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["groups_of_equals"]


def groups_of_equals(digests: npt.NDArray[np.uint8], numbers: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """The numbers of images with the same digest, for each digest that more than one has; by their first number.

    Args:
        digests: (n, bytes), a multiple of 8 bytes
        numbers: (n,) of the images.
    """
    if len(numbers) < 2:
        return []
    words = np.ascontiguousarray(digests).view(np.uint64)  # (n, 2 or more)
    order = np.lexsort(words.T)
    is_new = np.concatenate([[True], (words[order][1:] != words[order][:-1]).any(axis=1)])
    starts = np.flatnonzero(is_new)
    ends = np.append(starts[1:], len(order))
    groups = [np.sort(numbers[order[a:b]]) for a, b in zip(starts, ends, strict=True) if b - a > 1]
    return sorted(groups, key=lambda group: int(group[0]))
