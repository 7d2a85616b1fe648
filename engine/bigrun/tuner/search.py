"""The order in which settings are tried: one after the other, each from the best so far. Torch-free.

Micro-batch, with more activation checkpointing while none fits; workers; pinning; compile; attention. A full grid would
take hours, and these depend little on each other: the first decides how busy the device is, the next two whether the
images keep up with it, the last two how fast it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from bigrun.tuner.space import Space
from bigrun.tuner.trial import Settings

__all__ = ["FLAT", "climb", "search"]

FLAT = 0.02
"""Less gain than that is none: two trials of the same settings differ by as much."""

T = TypeVar("T")
Speed = Callable[[Settings], float | None]
"""Images per second of settings; None where the trial has failed."""


def search(space: Space, speed: Speed, largest: Callable[[str], int | None]) -> Settings | None:
    """The best settings; None when no trial has succeeded.

    Args:
        largest: micro-batch that should fit with a mode of activation checkpointing; None where that is not known.
    """
    told: dict[Settings, float | None] = {}

    def once(settings: Settings) -> float | None:
        if settings not in told:
            told[settings] = speed(settings)
        return told[settings]

    best = search_micro_batch(space, once, largest)
    if best is None:
        return None
    best = search_workers(space, best, once)
    for name in ("pin_memory", "compile", "attention"):
        values: Sequence[Any] = getattr(space, name)
        now = getattr(best, name)
        known = [now, *(value for value in values if value != now)]
        best = fastest([attrs.evolve(best, **{name: value}) for value in known], once) or best
    return best


def search_micro_batch(space: Space, speed: Speed, largest: Callable[[str], int | None]) -> Settings | None:
    for mode in space.modes:
        limit = largest(mode)
        sizes = [size for size in space.micro_batches if limit is None or size <= limit]
        begin = attrs.evolve(space.start, activation_checkpointing=mode)
        if not sizes:
            continue
        place = max((i for i, size in enumerate(sizes) if size <= begin.micro_batch), default=0)
        asked = [attrs.evolve(begin, micro_batch=size) for size in sizes]
        best = climb(asked, place, speed, beyond_failure=False)
        if best is not None:
            return best
    return None


def search_workers(space: Space, best: Settings, speed: Speed) -> Settings:
    counts = sorted({*space.workers, best.workers})
    asked = [attrs.evolve(best, workers=count) for count in counts]
    return climb(asked, counts.index(best.workers), speed, beyond_failure=True) or best


def fastest(values: Sequence[T], speed: Callable[[T], float | None]) -> T | None:
    """The first of the values that is within 2 % of the fastest; None when all have failed. Every one is asked."""
    return first_enough(values, {place: now for place, value in enumerate(values) if (now := speed(value)) is not None})


def first_enough(values: Sequence[T], found: Mapping[int, float]) -> T | None:
    if not found:
        return None
    enough = max(found.values()) / (1 + FLAT)
    return values[min(place for place, now in found.items() if now >= enough)]


def climb(values: Sequence[T], start: int, speed: Callable[[T], float | None], *, beyond_failure: bool) -> T | None:
    """The first of the values that is within 2 % of the fastest; None when all have failed.

    From `start` upwards as long as every value is faster than the one before by 2 %; downwards in the same way if there
    was nothing to gain upwards. So it is the best of a response that rises and then falls.

    Args:
        beyond_failure: whether what is beyond a failure may succeed; else it needs more of what was not there.
    """
    found: dict[int, float] = {}

    def ask(place: int) -> float | None:
        answer = speed(values[place])
        if answer is not None:
            found[place] = answer
        return answer

    def go(places: range, before: float | None) -> None:
        for place in places:
            now = ask(place)
            if before is not None and (now is None or now < (1 + FLAT) * before):
                return
            before = now

    first = ask(start)
    if first is not None:
        go(range(start + 1, len(values)), first)
    if first is None or max(found.values()) < (1 + FLAT) * first:
        go(range(start - 1, -1, -1), first)
    if not found and beyond_failure:
        go(range(start + 1, len(values)), None)
    return first_enough(values, found)
