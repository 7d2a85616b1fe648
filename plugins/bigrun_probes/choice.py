"""Which images are asked about, and which of them are the gallery: by a hash of their names, never by position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bigrun.errors import UsageError

__all__ = ["balanced", "queries", "require_classes", "share"]

SHOWN = 3


def require_classes(labels: Sequence[str | None], images: int, source: str) -> None:
    """Refuse labels that nothing can be learnt from.

    Args:
        images: at most so many are chosen.
        source: of the labels.

    Raises:
        UsageError: there is none, one class only, a class of one image, or more classes than can have two each.
    """
    counts = Counter(label for label in labels if label is not None)
    if not counts:
        raise UsageError(f"{source}: none of {len(labels):,} images has a label")
    if len(counts) == 1:
        (only,) = counts
        raise UsageError(f"{source}: all {counts[only]:,} images are {only!r}: expected 2 classes or more")
    single = sorted(label for label, count in counts.items() if count < 2)
    if single:
        raise UsageError(
            f"{source}: {len(single):,} of {len(counts):,} classes have one image alone, the first: "
            f"{', '.join(map(repr, single[:SHOWN]))}; expected 2 or more, one to be asked about and one to be found: "
            "leave them out with a labels_file that does not name them"
        )
    if images < 2 * len(counts):
        raise UsageError(
            f"{source}: {len(counts):,} classes, and images = {images}: expected at least {2 * len(counts):,}, two for "
            "each class"
        )


def balanced(order: Sequence[int], labels: Sequence[str | None], count: int) -> list[int]:
    """At most `count` labelled numbers of `order`, in that order: as equally many of each class as there are."""
    seen: dict[str, int] = {}
    turns = []
    for rank, number in enumerate(order):
        label = labels[number]
        if label is not None:
            turns.append((seen.get(label, 0), rank))  # how many of its class come before it
            seen[label] = seen.get(label, 0) + 1
    return [order[rank] for rank in sorted(rank for _, rank in sorted(turns)[:count])]


def queries(labels: Sequence[str], groups: Sequence[str], fraction: float, source: str) -> list[bool]:
    """Which of labelled images, in the order of their hashes, are asked about.

    Whole groups are: of those whose commonest label is a class the first ones, at least one and never all.

    Args:
        groups: what each image is kept together with.
        source: of the labels.

    Raises:
        UsageError: a class is not on both sides, for too few groups have it.
    """
    members: dict[str, Counter[str]] = {}
    for label, group in zip(labels, groups, strict=True):
        members.setdefault(group, Counter())[label] += 1
    by_class: dict[str, list[str]] = {}
    for group, counts in members.items():
        by_class.setdefault(counts.most_common(1)[0][0], []).append(group)
    asked = {group for those in by_class.values() for group in those[: share(len(those), fraction)]}
    is_query = [group in asked for group in groups]
    sides = [{label for label, query in zip(labels, is_query, strict=True) if query is side} for side in (True, False)]
    one_sided = sorted(sides[0] ^ sides[1])
    if one_sided:
        raise UsageError(
            f"{source}: {len(one_sided):,} of {len(set(labels)):,} classes are among the queries or in the gallery "
            f"alone, the first: {', '.join(map(repr, one_sided[:SHOWN]))}: with keep_together each class has to be in "
            "two groups or more; leave it out, or keep less together"
        )
    return is_query


def share(count: int, fraction: float) -> int:
    """A fraction of so many, at least one, and not all."""
    return min(max(round(fraction * count), 1), count - 1)
