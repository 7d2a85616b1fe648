"""How a run stands: whether it goes on, and what has ended it if not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import attrs

from bigrun.logs import ERROR, FINISHED, STARTED, STOPPED

if TYPE_CHECKING:
    from bigrun.lock import Owner

__all__ = ["State", "Status", "epoch_seconds", "status_of"]

State = Literal["not begun", "running", "finished", "stopped", "halted", "failed", "died"]
STORY = (STARTED, FINISHED, STOPPED, ERROR)
HALTED = "TrainingHalted"
"""The error that an anomaly ends a run with."""
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
        first = self.reason.partition("\n")[0]
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
    return Status("died", "its process is gone and has not said why (a kill, a power cut, or too little memory)", step)


def ended(event: Mapping[str, Any]) -> Status:
    facts = event["facts"]
    if event["kind"] == STOPPED:
        return Status("stopped", str(facts.get("reason") or event["message"]), event["step"])
    if event["kind"] == FINISHED:
        return Status("finished", event["message"], event["step"])
    state: State = "halted" if facts.get("type") == HALTED else "failed"
    name = "" if state == "halted" or not facts.get("type") else f"{facts['type']}: "
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
