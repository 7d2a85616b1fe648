"""What processes tell each other between steps: what was reported, asked for, and what happened."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.anomaly import Anomaly
from bigrun.data.faults import Fault
from bigrun.events import Event

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["Exchange", "merged"]

REMEMBERED = 1000


class Exchange:
    """What a process has to tell the others. All take part in it at once; where there is nothing to tell it costs one
    number."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        """Of this process, which is not the main one."""
        self._checkpoints: list[str] = []
        self._told: deque[tuple[str, str, int]] = deque(maxlen=REMEMBERED)
        """Kind, message and step of what the main process has told, which others may have met as well."""
        self._known: tuple[set[str], bool] = (set(), False)
        """Whose failures, and whether that the run is to stop, everybody knows."""

    def event(self, run: Run, event: Event) -> None:
        """The main process tells an event at once, the others have it told."""
        if run.is_main:
            self._told.append((event.kind, event.message, event.step))
            run.hook.on_event(run=run, event=event)
        else:
            self._events.append(event)

    def checkpoint(self, run: Run, reason: str) -> None:
        """Ask for one: of several processes after the next exchange, so that all know at the same step."""
        if run.peers.size == 1:
            run.saver.request(reason)
        else:
            self._checkpoints.append(reason)

    def __call__(self, run: Run) -> list[Anomaly]:
        """Make what any process has reported or asked for that of all; returns the anomalies, in the same order
        everywhere. What is reported in the course of it waits for the next time."""
        reported = run.incidents.take()
        if run.peers.size == 1:
            return reported
        faults = run.bad_images.take_new()
        has_news = reported or faults or self._checkpoints or self._events or self._state(run) != self._known
        if not run.peers.any(bool(has_news)):
            return []
        mine = self._mine(run, reported, faults)
        self._events, self._checkpoints = [], []
        everybody = run.peers.gathered(mine)
        for rank, theirs in enumerate(everybody):
            for reason in (reason for reason in theirs["checkpoint"] if reason not in run.saver.reasons):
                run.saver.request(reason)
            if rank != run.peers.rank:
                take(run, rank, theirs)
                self._tell(run, rank, theirs["events"])
        self._known = self._state(run)
        by_rank = [[anomaly_of(facts) for facts in theirs["anomalies"]] for theirs in everybody]
        for anomaly in (a for rank, theirs in enumerate(by_rank) if rank != run.peers.rank for a in theirs):
            run.incidents.note(anomaly)
        return merged(by_rank)

    def _state(self, run: Run) -> tuple[set[str], bool]:
        return set(run.plugins.failures), run.stop_reason is not None

    def _mine(self, run: Run, reported: list[Anomaly], faults: list[Fault]) -> dict[str, Any]:
        return {
            "anomalies": [attrs.asdict(anomaly) for anomaly in reported],
            "bad_images": [attrs.asdict(fault) for fault in faults],
            "checkpoint": self._checkpoints,
            "events": [attrs.asdict(event) for event in self._events],
            "failures": {name: attrs.asdict(failure) for name, failure in run.plugins.failures.items()},
            "stop": None if run.stop_reason is None else [run.stop_reason, run.stop_signal],
        }

    def _tell(self, run: Run, rank: int, events: list[dict[str, Any]]) -> None:
        """On the main process, what happened on another one and not here as well."""
        for facts in events if run.is_main else []:
            event = Event(**facts)
            if (event.kind, event.message, event.step) not in self._told:
                self.event(run, attrs.evolve(event, facts={**event.facts, "rank": rank}))


def take(run: Run, rank: int, theirs: Mapping[str, Any]) -> None:
    """What a process, this one too, has asked for or lost. Taken by rank, it is in the same order on all."""
    from bigrun.plugins import Failure

    run.bad_images.learn(run, [Fault(**facts) for facts in theirs["bad_images"]])
    for name, facts in theirs["failures"].items():
        run.plugins.failures.setdefault(name, Failure(**facts))
    if theirs["stop"] is not None and run.stop_reason is None:
        reason, run.process.stop_signal = theirs["stop"]
        run.stop_reason = f"{reason}, on process {rank}"


def merged(by_rank: Iterable[Iterable[Anomaly]]) -> list[Anomaly]:
    """Those of all processes, in the same order on all. What several have met, the same number of its kind in a step,
    is one, with the evidence of the first that has some."""
    found: dict[tuple[str, int, int], Anomaly] = {}
    for anomalies in by_rank:
        counts: Counter[tuple[str, int]] = Counter()
        for anomaly in anomalies:
            place = (anomaly.kind, anomaly.step, counts[anomaly.kind, anomaly.step])
            counts[place[:2]] += 1
            if place not in found or (anomaly.evidence and not found[place].evidence):
                found[place] = anomaly
    return list(found.values())


def anomaly_of(facts: Mapping[str, Any]) -> Anomaly:
    return Anomaly(**{**facts, **{name: tuple(facts[name]) for name in ("causes", "advice")}})
