"""Spikes: a loss or gradient norm far above what the steps before it had."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from bigrun.anomaly import Anomaly
from bigrun.evaluation.facts import Facts
from bigrun_guard.config import GuardConfig
from bigrun_guard.diagnosis import anomaly
from bigrun_guard.ladder import Ladder
from bigrun_guard.window import Window

__all__ = ["Spikes"]


@attrs.frozen
class Series:
    """A number that may spike."""

    name: str
    kind: str
    words: str
    factor: float


class Spikes:
    """Judges a step before its update. What it is measured against are steps that did update the weights: a value
    enters its window in `accept` alone."""

    def __init__(self, config: GuardConfig, facts: Facts, ladder: Ladder) -> None:
        self.config = config
        self.facts = facts
        self.ladder = ladder
        self.series = (
            Series("loss", "loss-spike", "loss", config.loss_spike_factor),
            Series("grad_norm", "gradient-spike", "gradient norm", config.gradient_spike_factor),
        )
        self.windows = {series.name: Window(config.window_steps) for series in self.series}
        self._seen: dict[str, float] = {}

    def judge(self, step: int, values: Mapping[str, float]) -> Iterator[Anomaly]:
        """What is wrong with the values of a step that has not updated the weights yet."""
        if step == self.facts.release_step:  # from here on the norm is of more parameters
            self.windows["grad_norm"].values.clear()
        self._seen = {name: values[name] for name in self.windows if math.isfinite(values.get(name, math.nan))}
        for series in self.series:
            window = self.windows[series.name]
            if series.name in self._seen and len(window) >= self.config.minimum_steps:
                yield from self._judge(series, window, step, self._seen[series.name])

    def _judge(self, series: Series, window: Window, step: int, value: float) -> Iterator[Anomaly]:
        found = window.deviation(value, series.factor, self.config.spike_z)
        if found.z <= self.config.spike_z:
            return
        onset = self.ladder.onset(series.kind, step)
        since = "" if onset == step else f"; not the first since step {onset}"
        yield anomaly(
            series.kind,
            step,
            f"the {series.words} is {value:.4g}; the median of the last {len(window)} steps was {found.median:.4g}"
            f"{since}",
            {series.name: value, "median": found.median, "robust_z": found.z},
            onset=onset,
        )

    def accept(self) -> None:
        """The step has updated the weights."""
        for name, value in self._seen.items():
            self.windows[name].accept(value)
        self._seen = {}

    def state_dict(self) -> dict[str, Any]:
        return {name: list(window.values) for name, window in self.windows.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.windows = {name: Window(self.config.window_steps, state.get(name, ())) for name in self.windows}
