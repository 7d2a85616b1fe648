"""anomaly-guard: sees spikes, collapse and standstill, says what they mean, and decides what is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bigrun import hookimpl
from bigrun.anomaly import Action, Anomaly
from bigrun.evaluation.facts import Facts
from bigrun.logs import ANOMALY_OVER
from bigrun_guard.config import GuardConfig
from bigrun_guard.guard import NORM, Guard
from bigrun_guard.hooks import GuardHooks
from bigrun_guard.offered import is_diagnoses

if TYPE_CHECKING:
    import torch

    from bigrun.objective.base import Outputs
    from bigrun.plugins import Plugins
    from bigrun.run import Run
    from bigrun_guard.rank import RankMeter

__all__ = ["AnomalyGuard"]

NAME = "anomaly-guard"
SCALING = ("weight", "prototypes", "student_temperature")
"""Endings of the names of options of the objective with which the size of its terms changes."""


class AnomalyGuard:
    """Judges every step before its update and its loss after it, and the rows of metrics once the warm-ups are over;
    other plugins offer it what they have found (`diagnoses`). It adds no loss and makes no forward pass; in every step
    it fetches a few numbers from the device, and all processes judge their means over all. Rows and class tokens are
    judged by the main process, whose answers count."""

    Config = GuardConfig

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.guard: Guard | None = None
        self.meter: RankMeter | None = None
        self._state: Mapping[str, Any] | None = None
        self._names: list[str] = []

    @hookimpl
    def configure_hooks(self, plugins: Plugins) -> None:
        plugins.add_hooks(GuardHooks, checks={"diagnoses": ("a list of Anomaly", is_diagnoses)})

    @hookimpl
    def header_lines(self, run: Run) -> list[str]:
        config, facts = self.config, Facts.of(run.config)
        begin, end = facts.warmup_steps + config.settle_steps + 1, run.max_steps
        late = f", and this run ends at {end}" if end is not None and end < begin else ""
        spikes = f"loss x{config.loss_spike_factor:g}, gradient norm x{config.gradient_spike_factor:g}"
        answers = ", then ".join(config.collapse)
        return [f"guard        spikes: {spikes}, z {config.spike_z:g}; collapse ({answers}) from step {begin}{late}"]

    @hookimpl
    def on_start(self, run: Run) -> None:
        from bigrun_guard.rank import RankMeter

        facts = Facts.of(run.config)
        self.guard = Guard(self.config, facts, basis_of(run))
        if self._state is not None:
            self.guard.load_state_dict(self._state)
        self.meter = RankMeter(self.config.rank_every_steps, facts.rows // run.strategy.world_size)
        self._names = ["loss", "grad_norm", *(f"{NORM}{name}" for name in run.objective.trained_modules())]

    @hookimpl
    def loss_terms(self, run: Run, step: int, outputs: Outputs) -> Mapping[str, torch.Tensor]:
        """None; this is where class tokens are seen."""
        assert self.guard is not None
        assert self.meter is not None
        if run.is_main and outputs.teacher_classes is not None and step > self.guard.trends.settled_step:
            self.meter.collect(step, outputs.teacher_classes)
        return {}

    @hookimpl
    def before_update(self, run: Run, step: int) -> None:
        assert self.guard is not None
        terms = {name for name, _ in run.metrics.items() if name.startswith("loss/")}
        for anomaly in self.guard.before_update(step, run.metrics.agreed(terms.union(self._names))):
            run.report_anomaly(anomaly)

    @hookimpl
    def after_update(self, run: Run, step: int) -> None:
        assert self.guard is not None
        modules = run.objective.trained_modules().items()
        training = {name for name, module in modules if any(p.requires_grad for p in module.parameters())}
        for anomaly in self.guard.after_update(step, training):
            run.report_anomaly(anomaly)
        self._tell_what_is_over(run)

    @hookimpl
    def on_metrics(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        assert self.guard is not None
        assert self.meter is not None
        answers = run.plugins.manager.hook.diagnoses(run=run, step=step)
        diagnoses = [diagnosis for answer in answers for diagnosis in answer]
        for anomaly in self.guard.on_metrics(step, {**metrics, **self.meter.measure(step)}, diagnoses):
            run.report_anomaly(anomaly)
        self._tell_what_is_over(run)

    def _tell_what_is_over(self, run: Run) -> None:
        assert self.guard is not None
        for over in self.guard.take_over():
            message = f"{over.kind.replace('-', ' ')} since step {over.since} is over"
            run.event(ANOMALY_OVER, message, anomaly=over.kind, since=over.since, evidence=list(over.evidence))

    @hookimpl
    def on_anomaly(self, run: Run, anomaly: Anomaly) -> Action | None:
        assert self.guard is not None
        answer = self.guard.answer(anomaly.kind, anomaly.step)
        return None if answer is None else Action(answer)

    # -- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> Mapping[str, Any] | None:
        return self._state if self.guard is None else self.guard.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._state = state


def basis_of(run: Run) -> str:
    """Changes with the options on which the size of the loss depends: weights and numbers of prototypes, masks, crops,
    and those of plugins that may add terms. What rules derive from the length of a run is not among them."""
    tables = run.config.tables()
    adding = {each.plugin_name for each in run.plugins.manager.hook.loss_terms.get_hookimpls()} - {NAME}
    plugins = {name: table for name, table in tables["plugins"].items() if name in adding}
    scale = {name: value for name, value in tables.get("objective", {}).items() if name.endswith(SCALING)}
    text = json.dumps([scale, tables.get("masking"), tables.get("views"), plugins], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
