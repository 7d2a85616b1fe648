"""How a run stands: whether it goes on, and what has ended it if not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import attrs

from bigrun.errors import __all__ as own_errors
from bigrun.logs import CHECKPOINT, ERROR, EVENTS, FINISHED, METRICS, STARTED, STOPPED
from bigrun.record.words import first_words

if TYPE_CHECKING:
    from bigrun.lock import Owner

__all__ = ["FULL_DISK", "State", "Status", "epoch_seconds", "refused_since", "status_of"]

State = Literal["not begun", "running", "finished", "stopped", "halted", "failed", "died"]
STORY = (STARTED, FINISHED, STOPPED, ERROR)
HALTED = "TrainingHalted"
"""The error that an anomaly ends a run with."""
FULL = ("No space left", "quota exceeded", "the disk has 0 B left")
FULL_DISK = "or its last words could not be written: the disk was full"
LAST_SECOND = 1e11
"""Of the year 5138: what is later was never written by a clock."""


@attrs.frozen
class Status:
    """How a run stands."""

    state: State
    """stopped: somebody, or an option, asked for it; halted: an anomaly ended it; failed: an error did; died: its
    process is gone, and has not said why."""
    reason: str = ""
    """Why, in the run's own words; "" where there is nothing to say."""
    step: int | None = None
    """Where it ended; None while it has not."""

    @property
    def is_running(self) -> bool:
        return self.state == "running"

    @property
    def is_over(self) -> bool:
        """Whether no process trains: it may have reached its end, or not."""
        return self.state not in ("running", "not begun")

    def __str__(self) -> str:
        first = first_words(self.reason)
        return f"{self.state}: {first}" if first and self.state != "finished" else self.state


def status_of(
    events: Sequence[Mapping[str, Any]], owner: Owner | None, step: int, max_steps: int | None, *, is_own: bool = False
) -> Status:
    """How a run stands.

    Args:
        owner: who holds its lock.
        step: the newest one that is known, from wherever.
        is_own: the owner is this process, of which it is not known since when.
    """
    story = next((event for event in reversed(events) if event["kind"] in STORY), None)
    if story is not None and story["kind"] != STARTED and not has_begun_again(story, owner, is_own=is_own):
        return ended(story)
    if owner is not None:
        is_at_end = is_own and max_steps is not None and step >= max_steps
        return Status("finished", step=step) if is_at_end else Status("running", str(owner))
    if story is None and step == 0:
        return Status("not begun")
    if story is None and max_steps is not None and step >= max_steps:
        return Status("finished", step=step)
    if not events:
        return Status("died", "its process is gone, and no log was written that says why", step)
    refused = unsaid(events)
    may_be = f"too little memory, {refused}" if refused else "or too little memory"
    return Status("died", f"its process is gone and has not said why (a kill, a power cut, {may_be})", step)


def unsaid(events: Sequence[Mapping[str, Any]]) -> str:
    """Why the last words of the newest process may be missing, where its log tells that the disk took nothing more;
    else ""."""
    refused = refusals(events)
    if any(word in event["message"] for event in refused.values() for word in FULL):
        return FULL_DISK
    return "or its last words could not be written: the disk refused them" if refused.keys() - {CHECKPOINT} else ""


def refused_since(events: Sequence[Mapping[str, Any]], log: str) -> float | None:
    """Since when the disk takes no line of a log, in seconds since 1970; None where it takes them, as far as is told:
    every attempt that fails changes the time of the file."""
    event = refusals(events).get(log)
    return None if event is None else epoch_seconds(event.get("time_utc"))


def refusals(events: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """What the disk had refused the newest process when that said something last, by log, and `checkpoint`."""
    found: dict[str, Mapping[str, Any]] = {}
    for event in events:
        kind, log = event["kind"], next((log for log in (METRICS, EVENTS) if log in event["message"]), "")
        if kind == STARTED:
            found = {}
        elif kind == "log-degraded":
            found[log] = event
        elif kind == "checkpoint-failed":
            found[CHECKPOINT] = event
        elif kind in ("log-recovered", CHECKPOINT):
            found.pop(CHECKPOINT if kind == CHECKPOINT else log, None)
    return found


def ended(event: Mapping[str, Any]) -> Status:
    facts = event["facts"]
    if event["kind"] == STOPPED:
        return Status("stopped", str(facts.get("reason") or event["message"]), event["step"])
    if event["kind"] == FINISHED:
        return Status("finished", event["message"], event["step"])
    state: State = "halted" if facts.get("type") == HALTED else "failed"
    # What bigrun says itself is meant for people, and needs no name of a class.
    is_own = state == "halted" or not facts.get("type") or facts["type"] in tuple(own_errors)
    name = "" if is_own else f"{facts['type']}: "
    return Status(state, f"{name}{event['message']}", event["step"])


def has_begun_again(end: Mapping[str, Any], owner: Owner | None, *, is_own: bool) -> bool:
    """Whether the owner is another process than the one that has said its end: that one may still hold the lock."""
    if owner is None or is_own:
        return False
    since, until = epoch_seconds(owner.started_utc), epoch_seconds(end.get("time_utc"))
    return since is not None and until is not None and since > until


def epoch_seconds(time_utc: Any) -> float | None:
    """Seconds since 1970 of a time in ISO 8601, UTC where it names no zone; None where it is no time, or none at which
    a run was written."""
    try:
        moment = datetime.fromisoformat(time_utc)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < LAST_SECOND else None
