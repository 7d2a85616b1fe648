"""All detectors of a run together, without the run: numbers go in, anomalies come out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from bigrun.anomaly import Anomaly
from bigrun.evaluation.facts import Facts
from bigrun_guard.conditions import Over
from bigrun_guard.config import GuardConfig
from bigrun_guard.diagnosis import LASTING
from bigrun_guard.ladder import Ladder
from bigrun_guard.modules import KIND as DEAD
from bigrun_guard.modules import Modules
from bigrun_guard.rise import KIND as DIVERGENCE
from bigrun_guard.rise import Rise
from bigrun_guard.spikes import Spikes
from bigrun_guard.trends import Trends

__all__ = ["Guard"]

NORM = "grad_norm/"
PARTS = ("ladder", "spikes", "modules", "trends", "rise")


class Guard:
    """The detectors of one run. What a step has shown counts as normal only after `after_update`."""

    def __init__(self, config: GuardConfig, facts: Facts, basis: str = "") -> None:
        """`basis`: a text that changes with the options on which the size of the loss depends."""
        self.config = config
        self.ladder = Ladder(config.ladders(), config.repeat_within_steps)
        self.spikes = Spikes(config, facts, self.ladder)
        self.modules = Modules(config, facts)
        self.trends = Trends(config, facts)
        self.rise = Rise(config, facts, basis)
        self._norms: dict[str, float] = {}

    def before_update(self, step: int, values: Mapping[str, float]) -> Iterator[Anomaly]:
        """Judge a step that is about to update the weights, by its `loss`, `loss/TERM`, `grad_norm` and
        `grad_norm/MODULE`."""
        self._norms = {name.removeprefix(NORM): value for name, value in values.items() if name.startswith(NORM)}
        self.rise.see(values)
        yield from self.spikes.judge(step, values)

    def after_update(self, step: int, training: Collection[str]) -> Iterator[Anomaly]:
        """The step has updated the weights; `training` names the modules of which anything is to learn."""
        self.spikes.accept()
        norms = {name: norm for name, norm in self._norms.items() if name in training}
        yield from self.modules.judge(step, norms)
        yield from self.rise.judge(step)
        self._forget_what_is_over(DEAD, DIVERGENCE)

    def on_metrics(
        self, step: int, metrics: Mapping[str, float], diagnoses: Sequence[Anomaly] = ()
    ) -> Iterator[Anomaly]:
        """Judge a row of metrics, and what others say is wrong."""
        yield from self.trends.judge(step, metrics, diagnoses)
        self._forget_what_is_over(*LASTING)

    def _forget_what_is_over(self, *kinds: str) -> None:
        """Where nothing of a kind lasts, whoever sees it, the next one is a first one."""
        for kind in kinds:
            if not any(part.any_lasts(kind) for part in (self.trends, self.modules, self.rise)):
                self.ladder.forget(kind)

    def take_over(self) -> list[Over]:
        """The conditions that were reported and are over since this was asked last."""
        parts = (self.modules, self.rise, self.trends, self.trends.offered)
        over = [each for part in parts for each in part.over]
        for part in parts:
            part.over = []
        return over

    def answer(self, kind: str, step: int) -> str | None:
        """What is to be done about an anomaly, as its ladder says; None to a kind of somebody else's. Conditions of one
        kind climb it together: while any of them lasts they count once, and again with the reminders."""
        if kind in LASTING:
            return self.ladder.answer(kind, step, apart_steps=self.config.remind_steps)
        self.ladder.forget_old(kind, step)
        return self.ladder.answer(kind, step)

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).state_dict() for name in PARTS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in PARTS:
            if name in state:  # checkpoints of an older version know nothing of the beginning of the loss
                getattr(self, name).load_state_dict(state[name])
