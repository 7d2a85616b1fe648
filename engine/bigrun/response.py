"""Doing what was answered to an anomaly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigrun.anomaly import USUAL_SEVERITY, Action, Anomaly, strongest
from bigrun.errors import TrainingHalted
from bigrun.logs import ANOMALY
from bigrun.record.words import addressed
from bigrun.rollback import RollBack, refusal, rollback_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bigrun.run import Run

__all__ = ["answered", "respond"]


def respond(run: Run, answers: Sequence[tuple[Anomaly, Action]]) -> Action:
    """Say every anomaly with its answer, and do the strongest answer; returns it.

    Raises:
        RollBack: the run is to go on from an older checkpoint.
        TrainingHalted: the run ends.
    """
    for anomaly, action in answers:
        say(run, anomaly, action)
    action = strongest(action for _, action in answers)
    if action in (Action.WARN, Action.SKIP):
        return action
    first = next(anomaly for anomaly, answer in answers if answer is action)
    if action is Action.ROLL_BACK:
        go_back_or_halt(run, first)
    keep(run, first)
    if action is Action.HALT:
        raise run.peers.alike(TrainingHalted(report(run, first)))
    return action


def answered(run: Run, anomalies: Sequence[Anomaly]) -> list[tuple[Anomaly, Action]]:
    """Every process asks its plugins, whose counts go on; the answers of the main process's are those of all: what one
    plugin has seen may differ from process to process, and only together can they skip, go back or end."""
    answers = [run.hook.on_anomaly(run=run, anomaly=anomaly).value for anomaly in anomalies]
    told = run.peers.by_main(lambda: answers) if answers else []
    return [(anomaly, Action(answer)) for anomaly, answer in zip(anomalies, told, strict=True)]


def say(run: Run, anomaly: Anomaly, action: Action) -> None:
    """The event. Its own step is that in which it is said; `facts.step` that in which it was found."""
    run.event(
        ANOMALY,
        f"step {anomaly.step}: {anomaly.message}",
        level="warning",
        evidence=dict(anomaly.evidence),
        anomaly=anomaly.kind,
        action=action.value,
        step=anomaly.step,
        onset=anomaly.step if anomaly.onset is None else anomaly.onset,
        lasts=anomaly.lasts,
        severity=anomaly.severity or USUAL_SEVERITY,
        causes=list(anomaly.causes),
        advice=list(anomaly.advice),
    )


def go_back_or_halt(run: Run, anomaly: Anomaly) -> None:
    target = rollback_target(run, anomaly)
    why_not = refusal(run, target)
    if why_not is None:
        assert target is not None
        raise RollBack(anomaly, target, run.position + run.images_taken)
    keep(run, anomaly)
    raise run.peers.alike(TrainingHalted(f"{report(run, anomaly)}\nThe run does not go back: {why_not}."))


def keep(run: Run, anomaly: Anomaly) -> None:
    from bigrun.emergency import keep_emergency
    from bigrun.flight import of_all

    flight = of_all(run.peers.gathered(run.flight.dump()))
    keep_emergency(run, anomaly, flight)
    run.peers.by_main(lambda: None)  # torchrun ends all when the first one ends: nobody does before it is kept


def report(run: Run, anomaly: Anomaly) -> str:
    """What a person needs to know who finds the run halted."""
    lines = [f"halted at step {anomaly.step}: {anomaly.message}"]
    lines += [f"  likely cause: {cause}" for cause in anomaly.causes]
    lines += [f"  try: {addressed(advice, run.directory, anomaly.step)}" for advice in anomaly.advice]
    return "\n".join(lines)
