"""Images that are there more than once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bigrun.data.check.examine import DIGEST, examine_all

if TYPE_CHECKING:
    import numpy.typing as npt

    from bigrun.data.check.images import Images
    from bigrun.data.check.tally import Tally

__all__ = ["find_copies", "groups_of_equals"]


def find_copies(
    images: Images, tally: Tally, sets: npt.NDArray[np.int64], workers: int
) -> tuple[list[npt.NDArray[np.int64]], str]:
    """Groups of equal images, those of one colour left out, and how they were found.

    Args:
        tally: of the images that were decoded; of a sample an index says more, by the bytes of all files.
        sets: (len(images),) the data set of each image.
        workers: processes that decode one image of each group that the index has, to leave out those of one colour.
    """
    hashes = images.files.hashes() if images.files is not None and tally.checked < len(images) else None
    if hashes is None:
        digests = np.frombuffer(bytes(tally.digests), dtype=np.uint8).reshape(-1, DIGEST)
        return groups_of_equals(digests, np.array(tally.numbers, dtype=np.int64)), "pixel by pixel"
    groups = groups_of_equals(hashes, np.arange(len(images)))
    examined = examine_all(images, [int(group[0]) for group in groups], sets, workers)
    several = {seen.number for piece in examined for seen in piece.seen if seen.cause is None and not seen.is_constant}
    return [group for group in groups if int(group[0]) in several], "by the contents of all files, from the index"


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
