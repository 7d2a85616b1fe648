"""What the plugin remembers from one process to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["Baselines", "Reading", "State"]


@attrs.frozen
class Reading:
    """A value, and the step after which it was measured."""

    value: float
    step: int


@attrs.frozen
class Baselines:
    """What a number is to be read beside, by metric; the same for the whole run."""

    chance: dict[str, float]
    raw_pixels: dict[str, float]
    begin: dict[str, float] | None
    """Of the teacher before step 1; None where the run had begun before it was asked."""


@attrs.define
class State:
    """Facts of a checkpoint, of one set of images."""

    identity: str | None = None
    """Of the set."""
    baselines: Baselines | None = None
    latest: dict[str, Reading] = attrs.field(factory=dict)
    best: dict[str, Reading] = attrs.field(factory=dict)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Remember values of a step. Higher is better everywhere; of equal ones the earlier is the best."""
        for name, value in values.items():
            self.latest[name] = Reading(value, step)
            if name not in self.best or value > self.best[name].value:
                self.best[name] = self.latest[name]

    def to_json(self) -> dict[str, Any]:
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> State:
        baselines = facts["baselines"]
        readings = {key: {n: Reading(**r) for n, r in facts[key].items()} for key in ("latest", "best")}
        return cls(facts["identity"], Baselines(**baselines) if baselines else None, **readings)
