"""The order in which settings are tried: one after the other, each from the best so far. Torch-free.

Micro-batch, with more activation checkpointing while none fits; workers; pinning; compile; attention. A full grid would
take hours, and these depend little on each other: the first decides how busy the device is, the next two whether the
images keep up with it, the last two how fast it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from bigrun.tuner.space import TURNS, Space
from bigrun.tuner.trial import Outcome, Settings

__all__ = ["FLAT", "Search", "climb", "is_certain"]

FLAT = 0.02
"""Less gain than that is not worth another setting. Trials of the same settings may differ by more: see `better`."""

T = TypeVar("T")
Speed = Callable[[Outcome], float | None]


def in_all(outcome: Outcome) -> float | None:
    return outcome.images_per_second


def of_device(outcome: Outcome) -> float | None:
    """Whether images keep up with it is decided by the workers, who are sought later."""
    return outcome.device_images_per_second


@attrs.define
class Search:
    """A search for the fastest settings."""

    space: Space
    attempt: Callable[[Sequence[Settings]], list[Outcome]]
    """Makes trials, one right after the other; new ones, if it is asked again."""
    largest: Callable[[str], int | None]
    """Micro-batch that should fit with a mode of activation checkpointing; None where that is not known."""
    note: Callable[[str], None] = lambda text: None
    """Hears what was decided."""
    _first: dict[Settings, Outcome] = attrs.field(factory=dict, init=False)

    def run(self) -> Settings | None:
        """The best settings; None when no trial has succeeded."""
        best = self.micro_batch()
        if best is None:
            return None
        best = self.workers(best)
        for name in ("pin_memory", "compile", "attention"):
            best = self.value(best, name)
        return best

    def micro_batch(self) -> Settings | None:
        for mode in self.space.modes:
            limit = self.largest(mode)
            sizes = [size for size in self.space.micro_batches if limit is None or size <= limit]
            if not sizes:
                continue
            own = self.space.start.micro_batch
            place = max((i for i, size in enumerate(sizes) if size <= own), default=0)
            best = self.climb("micro_batch", sizes, place, mode, speed=of_device)
            if best is not None:
                return best
        if self._first:
            return None
        self.note("no micro-batch should fit: the smallest is tried, for a prediction may be wrong")
        return self.climb("micro_batch", self.space.micro_batches[:1], 0, self.space.modes[-1], speed=of_device)

    def climb(
        self, name: str, values: Sequence[int], place: int, mode: str, *, speed: Speed, base: Settings | None = None
    ) -> Settings | None:
        """The best of rising values, sought from one of them, which stays unless another one is certainly faster."""
        begin = attrs.evolve(base or self.space.start, activation_checkpointing=mode)
        changes: list[dict[str, Any]] = [{name: value} for value in values]
        asked = [attrs.evolve(begin, **change) for change in changes]
        best = climb(asked, place, lambda each: speed(self.first(each)), beyond_failure=name == "workers")
        return None if best is None else self.better(asked[place], best, speed)

    def workers(self, best: Settings) -> Settings:
        counts = sorted({*self.space.workers, best.workers})
        place, mode = counts.index(best.workers), best.activation_checkpointing
        return self.climb("workers", counts, place, mode, speed=in_all, base=best) or best

    def value(self, best: Settings, name: str) -> Settings:
        """The best of a few values, each of which is tried."""
        now = getattr(best, name)
        values: list[Any] = [now, *(value for value in getattr(self.space, name) if value != now)]
        asked = [attrs.evolve(best, **{name: value}) for value in values]
        found = {place: speed for place, each in enumerate(asked) if (speed := in_all(self.first(each))) is not None}
        return self.better(best, first_enough(asked, found, 0) or best, in_all)

    def first(self, settings: Settings) -> Outcome:
        """Of the first trial of these settings."""
        if settings not in self._first:
            (self._first[settings],) = self.attempt([settings])
        return self._first[settings]

    def better(self, own: Settings, other: Settings, speed: Speed) -> Settings:
        """The other settings, if they are certainly faster than the own ones, else these.

        Both are tried again, side by side, so that a machine that becomes slower meanwhile is so for both.
        """
        if own == other or speed(self.first(own)) is None:
            return other
        before: list[float] = []
        now: list[float] = []
        for turn in range(TURNS):
            pair = [own, other] if turn % 2 == 0 else [other, own]
            speeds = dict(zip(pair, (speed(outcome) or 0.0 for outcome in self.attempt(pair)), strict=True))
            before.append(speeds[own])
            now.append(speeds[other])
            if not is_certain(before, now):
                break
        gains = ", ".join(gain(a, b) for a, b in zip(before, now, strict=True))
        said = f"{other.unlike(own)} beside {own.unlike(other)}: {gains}"
        if is_certain(before, now):
            self.note(f"{said}, in {TURNS} trials of each: taken")
            return other
        self.note(f"{said}, which is no certain gain: {own.unlike(other)} stays")
        return own


def is_certain(before: Sequence[float], now: Sequence[float]) -> bool:
    """Whether the slowest of some trials is 2 % faster than the fastest of the others.

    Where both are equally fast and trials differ by much more than 2 %, four trials come out so once in six times, and
    the first trials of both had to come out so, too.
    """
    return min(now) > 0 and min(now) >= (1 + FLAT) * max(before)


def gain(before: float, now: float) -> str:
    if not now:
        return "failed"
    return f"{now / before - 1:+.1%}" if before else "the other failed"


def first_enough(values: Sequence[T], found: Mapping[int, float], own: int) -> T | None:
    """The value at `own` if it is within 2 % of the fastest, else the first that is; None where nothing was found."""
    if not found:
        return None
    enough = max(found.values()) / (1 + FLAT)
    return values[own if found.get(own, 0.0) >= enough else min(place for place, now in found.items() if now >= enough)]


def climb(values: Sequence[T], start: int, speed: Callable[[T], float | None], *, beyond_failure: bool) -> T | None:
    """The value at `start` if it is within 2 % of the fastest, else the first that is; None when all have failed.

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
    return first_enough(values, found, start)
