"""What takes time: indicators that stay bad, and a loss that has not moved since the first step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bigrun.anomaly import Anomaly
from bigrun.evaluation.facts import Facts
from bigrun_guard.conditions import Conditions, Over
from bigrun_guard.config import GuardConfig
from bigrun_guard.diagnosis import anomaly
from bigrun_guard.indicators import Indicator, indicators
from bigrun_guard.offered import Offered

__all__ = ["Trends"]

STUCK = "stuck"


class Trends:
    """Judges the rows of metrics, from some steps after the last warm-up on: before that all class tokens are alike
    in a healthy run too."""

    def __init__(self, config: GuardConfig, facts: Facts) -> None:
        self.config = config
        self.facts = facts
        self.conditions = Conditions(config.remind_steps, config.hold_steps)
        self.over: list[Over] = []
        self.offered = Offered(config)
        self.indicators = indicators(config, facts)
        self.keys: dict[str, list[str]] = {STUCK: [STUCK]}
        """Of the conditions, by kind."""
        for indicator in self.indicators:
            self.keys.setdefault(indicator.kind, []).append(indicator.key)
        self.settled_step = facts.warmup_steps + config.settle_steps
        self.unmoved: dict[str, float] = {}
        """The first value of every loss that has stayed there."""

    def judge(self, step: int, metrics: Mapping[str, float], diagnoses: Sequence[Anomaly] = ()) -> Iterator[Anomaly]:
        """What is wrong with a row of metrics, and what others say is wrong at this step."""
        values = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._watch_losses(step, values)
        if step <= self.settled_step:
            return
        for indicator in self.indicators:
            if all(name in values for name in indicator.needs):
                yield from self._judge(indicator, step, values)
        if step >= self.settled_step + self.config.stuck_steps:
            yield from self._judge_losses(step, values)
        yield from self.offered.judge(step, diagnoses)

    def any_lasts(self, kind: str) -> bool:
        """Whether a condition of this kind holds, or one that somebody offers."""
        return self.conditions.any_lasts(self.keys.get(kind, ())) or self.offered.any_lasts(kind)

    def _judge(self, indicator: Indicator, step: int, values: Mapping[str, float]) -> Iterator[Anomaly]:
        if not indicator.is_bad(values):
            self._ends(indicator.key, step, indicator.kind, indicator.needs)
            return
        onset = self.conditions.holds(indicator.key, step, indicator.hold_steps)
        if onset is not None:
            evidence = {name: values[name] for name in indicator.needs}
            message = indicator.message if onset == step else f"{indicator.message}, since step {onset}"
            yield anomaly(indicator.kind, step, message, evidence, name=indicator.diagnosis, onset=onset)

    def _ends(self, key: str, step: int, kind: str, evidence: tuple[str, ...] = ()) -> None:
        onset = self.conditions.ends(key, step)
        self.over += [] if onset is None else [Over(kind, onset, evidence)]

    def _watch_losses(self, step: int, values: Mapping[str, float]) -> None:
        """Losses that begin above zero and with random heads have a way to go; the others are not judged."""
        if step <= self.facts.log_every_steps and self.facts.is_fresh:
            self.unmoved = {name: value for name, value in values.items() if is_loss(name) and value > 0}
        limit = self.config.stuck_fraction
        self.unmoved = {
            name: first
            for name, first in self.unmoved.items()
            if abs(values.get(name, math.inf) - first) <= limit * first
        }

    def _judge_losses(self, step: int, values: Mapping[str, float]) -> Iterator[Anomaly]:
        if not self.unmoved:
            self._ends(STUCK, step, STUCK)
        elif self.conditions.holds(STUCK, step, hold_steps=0) is not None:
            message = f"not moved by {self.config.stuck_fraction:.0%} since the first row: {', '.join(self.unmoved)}"
            yield anomaly(STUCK, step, message, {name: values[name] for name in self.unmoved}, onset=1)

    def state_dict(self) -> dict[str, Any]:
        return {
            "conditions": self.conditions.state_dict(),
            "unmoved": dict(self.unmoved),
            "offered": self.offered.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.conditions.load_state_dict(state["conditions"])
        self.unmoved = dict(state["unmoved"])
        if "offered" in state:  # checkpoints before there was a hook for it have none
            self.offered.load_state_dict(state["offered"])


def is_loss(name: str) -> bool:
    return name == "loss" or name.startswith("loss/")
