"""One process has an odd loss or finds something odd, and processes answer differently."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

from bigrun import hookimpl
from bigrun.anomaly import Action, Anomaly
from one_of_many.who import is_other


class Infinite:
    @hookimpl
    def loss_terms(self, run: Any, step: int, outputs: Any) -> dict[str, Tensor]:
        return {"infinite": loss_of(outputs, float("inf") if step == 2 and is_other(run) else 0.0)}


class Spikes:
    """The loss of one process is 40 times itself, in the steps that `SPIKES` names, until the run has gone back."""

    @hookimpl
    def loss_terms(self, run: Any, step: int, outputs: Any) -> dict[str, Tensor]:
        is_hit = is_other(run) and str(step) in os.environ["SPIKES"].split() and not run.rollbacks
        return {"spike": loss_of(outputs, 400.0 if is_hit else 0.0)}


def loss_of(outputs: Any, value: float) -> Tensor:
    zero: Tensor = 0 * outputs.global_features.cls.sum()
    return zero + value


class Halts:
    """Asked what to do about what another process has found, the main one answers for all."""

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if is_other(run):
            report(run, step)

    @hookimpl
    def on_anomaly(self, run: Any) -> Action:
        return Action.WARN if is_other(run) else Action.HALT


class Disagrees:
    """Processes that have seen other things answer differently; `ANSWERS` has the one of each."""

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        report(run, step)

    @hookimpl
    def on_anomaly(self, run: Any) -> Action:
        return Action(os.environ["ANSWERS"].split()[run.peers.rank])


class AsksLate:
    """An anomaly of which the main process is told, and asks for a checkpoint; the others are in the next thing."""

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        report(run, step)

    @hookimpl
    def on_anomaly(self) -> Action:
        return Action.WARN

    @hookimpl
    def on_event(self, run: Any, event: Any) -> None:
        if event.kind == "anomaly":
            run.request_checkpoint("an anomaly")


def report(run: Any, step: int) -> None:
    """Something odd in step 3."""
    if step == 3:
        run.report_anomaly(Anomaly("odd", step, "something is odd"))
