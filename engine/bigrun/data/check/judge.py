"""What follows from what was seen: whether training may start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bigrun.data.check.finding import Finding

if TYPE_CHECKING:
    import numpy.typing as npt

    from bigrun.data.check.tally import Kind
    from bigrun.data.split.manifest import Split

__all__ = ["SHOWN", "bad_images", "constant_images", "duplicates", "kinds_of_images", "left_out"]

SHOWN = 5
"""Files that are named; the others are counted."""

Name = Callable[[int], str]


def named(names: Sequence[str], count: int) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {count - SHOWN:,} more" if count > SHOWN else "")


def bad_images(bad: Sequence[tuple[str, str, str]], checked: int, limit: int) -> Iterator[Finding]:
    """
    Args:
        bad: path, cause and message of each image that cannot be used.
        checked: images that were looked at.
        limit: so many a run leaves out without a word; it stops at more.
    """
    if not bad:
        return
    causes = Counter(cause for _, cause, _ in bad)
    told = ", ".join(f"{count:,} {cause}" for cause, count in causes.most_common())
    refuses = len(bad) > limit
    judged = "more than" if refuses else "within"
    yield Finding(
        "bad-images",
        f"{len(bad):,} of {checked:,} cannot be used ({told}), {judged} the {limit:,} that data.max_bad_fraction "
        f"allows: {named([f'{path} ({message})' for path, _, message in bad], len(bad))}"
        + ("; repair or remove them" if refuses else ""),
        refuses,
    )
    if len(bad) == checked:
        yield Finding("no-image", "not one image can be used", refuses=True)


def left_out(paths: Sequence[str]) -> Iterator[Finding]:
    """
    Args:
        paths: of files that the index leaves out as bad, and that are not as they were.
    """
    if paths:
        yield Finding(
            "index-out-of-date",
            f"{len(paths):,} files that the index leaves out are not as they were: {named(paths, len(paths))}; run "
            "`bigrun data index` again",
            refuses=True,
        )


def constant_images(numbers: Sequence[int], name: Name) -> Iterator[Finding]:
    """
    Args:
        numbers: of images that are one colour.
    """
    if numbers:
        some = [name(number) for number in numbers[:SHOWN]]
        yield Finding(
            "constant-images", f"{len(numbers):,} images are one colour, and teach nothing: {named(some, len(numbers))}"
        )


def duplicates(
    groups: Sequence[npt.NDArray[np.int64]],
    by: str,
    name: Name,
    split: Split | None,
    keys: npt.NDArray[np.object_] | None,
) -> Iterator[Finding]:
    """
    Args:
        groups: numbers of images that are equal, constant ones left out.
        by: how that was found out.
        keys: the group of each image at the split's level; None where it cannot be told.
    """
    if not groups:
        return
    extra = sum(len(group) - 1 for group in groups)
    yield Finding("duplicates", f"{extra:,} images are there again, {by}: {pairs(groups, name)}")
    if split is None or keys is None:
        return
    parts = split.validation(keys)
    both = [group for group in groups if len(set(parts[group].tolist())) == 2]
    if both:
        across = [np.array([group[~parts[group]][0], group[parts[group]][0]]) for group in both]
        yield Finding(
            "duplicates-across-split",
            f"{len(both):,} images for validation are for training as well: {pairs(across, name)}; remove one of each, "
            f"or let them be one {split.level}",
            refuses=True,
        )


def pairs(groups: Sequence[npt.NDArray[np.int64]], name: Name) -> str:
    return named([f"{name(int(g[0]))} = {name(int(g[1]))}" for g in groups[:SHOWN]], len(groups))


def kinds_of_images(kinds: Sequence[Kind]) -> Iterator[Finding]:
    """Whether the images of one data set are stored in several ways."""
    dtypes: dict[str, set[str]] = {}
    for kind in kinds:
        dtypes.setdefault(kind.dataset, set()).add(kind.dtype)
    for dataset, found in dtypes.items():
        if len(found) > 1:
            yield Finding(
                "mixed-depths",
                f"data set {dataset!r}: images of {', '.join(sorted(found))} together: are they from the same source?",
            )
