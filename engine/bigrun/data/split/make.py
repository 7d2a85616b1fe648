"""A new split of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import attrs

from bigrun.data.split.groups import groups_of, known_groups, levels_of
from bigrun.data.split.manifest import LEVELS, Split
from bigrun.data.split.rule import RULE, normal, place
from bigrun.errors import UsageError

if TYPE_CHECKING:
    from bigrun.data.dataset import Dataset

__all__ = ["PEOPLE", "Division", "choose_level", "divide", "make_split"]

PEOPLE = ("patient", "study", "series")
FAR = 2.0
"""A validation part that is so many times larger or smaller than asked is worth a word."""


@attrs.frozen
class Division:
    """How a split divides one data set."""

    split: Split
    training: tuple[int, int]
    """Groups and samples."""
    validation: tuple[int, int]
    warnings: tuple[str, ...] = ()


def make_split(
    dataset: Dataset, source: str, *, fraction: float, seed: int, level: str | None = None, before: Split | None = None
) -> Division:
    """Divide a data set by the rule, with a group at least in each part.

    Args:
        source: what messages call the data set.
        level: None for the one of `choose_level`.
        before: an earlier split by the same rule; where it goes another way than the rule, so does the new one.

    Raises:
        UsageError: the data set does not know the level, or has a single group at it.
    """
    level = level or choose_level(dataset, source)
    keys = groups_of(dataset, level, source).tolist()
    samples = Counter(map(normal, keys))
    if len(samples) < 2:
        raise UsageError(f"{source}: {one_group(level, next(iter(samples), None), levels_of(dataset))}")
    rule = Split(RULE, seed, fraction, level, frozenset(), frozenset())
    split = with_both_parts(keep(rule, before), samples)
    listed = split.validation_groups | {key for key in samples if split.is_validation(key)}
    split = attrs.evolve(split, validation_groups=frozenset(listed))
    division = divide(split, samples)
    warnings = (*mixed(dataset, split, keys, source), *uneven(division, len(samples), levels_of(dataset)))
    return attrs.evolve(division, warnings=warnings)


def choose_level(dataset: Dataset, source: str) -> str:
    """The coarsest level that the data set knows; one whose files all lie in one folder is divided by images.

    Raises:
        UsageError: it knows none.
    """
    known = levels_of(dataset)
    if not known:
        raise UsageError(
            f"{source}: its data set ({type(dataset).__name__}) does not say which samples belong together: it has "
            "neither `files` nor `levels` and `groups`"
        )
    if known[0] == "folder" and "image" in known and len(set(groups_of(dataset, "folder", source).tolist())) < 2:
        return "image"
    return known[0]


def divide(split: Split, samples: Mapping[str, int]) -> Division:
    """Count what a split does to a data set.

    Args:
        samples: how many each group has.
    """
    validation = {key: count for key, count in samples.items() if split.is_validation(key)}
    training = {key: count for key, count in samples.items() if key not in validation}
    return Division(split, (len(training), sum(training.values())), (len(validation), sum(validation.values())))


def keep(rule: Split, before: Split | None) -> Split:
    """The rule, with what an earlier split of the same seed, fraction and level does otherwise."""
    if before is None or (before.rule, before.seed, before.fraction, before.level) != (
        rule.rule, rule.seed, rule.fraction, rule.level,
    ):  # fmt: skip
        return rule
    against = frozenset(key for key in before.validation_groups if not rule.is_validation(key))
    return attrs.evolve(rule, validation_groups=against, training_groups=before.training_groups)


def with_both_parts(split: Split, samples: Mapping[str, int]) -> Split:
    """The split, and a group in the part that would have none: the one that stands nearest to it."""
    parts = {key: split.is_validation(key) for key in samples}
    if len(set(parts.values())) == 2:
        return split
    nearest = sorted(samples, key=lambda key: (place(split.seed, split.level, key), key))
    if any(parts.values()):
        return attrs.evolve(split, training_groups=split.training_groups | {nearest[-1]})
    return attrs.evolve(split, validation_groups=split.validation_groups | {nearest[0]})


def one_group(level: str, key: str | None, known: tuple[str, ...]) -> str:
    return f"all samples are of one {level} ({key}): there is nothing to divide{finer(level, known)}"


def finer(level: str, known: tuple[str, ...]) -> str:
    below = [name for name in known if LEVELS.index(name) > LEVELS.index(level)]
    return f"; --level {below[0]} divides what one {level} holds" if below else ""


def mixed(dataset: Dataset, split: Split, keys: list[str], source: str) -> Iterator[str]:
    """What is, or may be, on both sides.

    Args:
        keys: the group of each sample.
    """
    level, known = split.level, levels_of(dataset)
    if level in PEOPLE and "patient" not in known:
        yield f"there is no column `patient`: two {level} groups of one patient may be on both sides"
    for coarser in [name for name in known[: known.index(level)] if name in PEOPLE]:
        groups = known_groups(dataset, coarser, source).tolist()
        pairs = [(group, key) for group, key in zip(groups, keys, strict=True) if group is not None]
        if unknown := len(keys) - len(pairs):
            yield (
                f"{unknown:,} of {len(keys):,} samples have no {coarser}: two {level} groups of one {coarser} may be "
                "on both sides"
            )
        parts: dict[str, set[bool]] = {}
        for group, key in pairs:
            parts.setdefault(group, set()).add(split.is_validation(key))
        both = [group for group, sides in parts.items() if len(sides) == 2]
        if both:
            yield f"{len(both):,} of {len(parts):,} {coarser} groups are on both sides (the first: {min(both)})"


def uneven(division: Division, groups: int, known: tuple[str, ...]) -> Iterator[str]:
    """Whether the validation part is far from what was asked."""
    split, (_, validation), (_, training) = division.split, division.validation, division.training
    share = validation / (validation + training)
    if not split.fraction / FAR <= share <= split.fraction * FAR:
        yield (
            f"{share:.1%} of the samples are for validation, asked were {split.fraction:.1%}: the {groups:,} "
            f"{split.level} groups are few, or of very different sizes{finer(split.level, known)}"
        )
