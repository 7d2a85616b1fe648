"""The verdict on a run: one line that says whether it is well, and names the trouble first if it is not.

A function of what was read (`RunRecord`), of the health report's sections, and of what the disk holds now: the newest
checkpoint, and room. What counts as trouble of now, and
for how long: docs/how-to/watch-a-run.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import attrs

from bigrun.record import anomalies, troubles
from bigrun.record.newest import newest_saved
from bigrun.record.reason import Gravity, Reason, by_gravity
from bigrun.record.sound import Saved, newest_states
from bigrun.record.status import FULL_DISK
from bigrun.record.words import duration, first_words

if TYPE_CHECKING:
    from bigrun.record.record import RunRecord

__all__ = ["Level", "Verdict", "verdict"]

Level = Literal["healthy", "look", "stopped"]
OPENINGS: Mapping[Level, str] = {"healthy": "healthy", "look": "look at this", "stopped": "stopped"}


@attrs.frozen
class Verdict:
    """How a run is."""

    level: Level
    """healthy: nothing to do; look: something needs a person; stopped: it ended before its last step."""
    headline: str
    """One line in plain words, such as `look at this: the loader is too slow: data wait 71 %`."""
    reasons: tuple[Reason, ...] = ()
    """The gravest first; the headline begins with the first one, unless that is a note."""


def verdict(record: RunRecord, sections: Sequence[Mapping[str, Any]] = ()) -> Verdict:
    """Judge a run.

    Args:
        sections: what plugins have answered to `health_section`.
    """
    reasons = by_gravity(reasons_of(record, sections))
    troubled = [reason for reason in reasons if reason.gravity < Gravity.NOTE]
    level = level_of(record, troubled)
    told = [troubled[0].text] if troubled else [standing(record)]
    if level == "look" and record.status.state == "finished":
        told.append(standing(record))
    if level == "stopped" and len(troubled) > 1 and record.status.state != "halted":
        is_now = troubled[1].kind in (troubles.DAMAGED, troubles.UNREADABLE)
        told.append(troubled[1].text if is_now else f"before that: {troubled[1].text}")
    return Verdict(level, f"{OPENINGS[level]}: {'; '.join(told)}", reasons)


def level_of(record: RunRecord, troubled: Sequence[Reason]) -> Level:
    if record.status.state in ("running", "finished"):
        return "look" if troubled else "healthy"
    return "stopped"


def reasons_of(record: RunRecord, sections: Sequence[Mapping[str, Any]]) -> Iterator[Reason]:
    saved = newest_states(record.directory)
    ended = list(ends(record, saved))
    yield from ended
    yield from troubles.standstill(record)
    yield from (reason for reason in anomalies.anomalies(record) if reason.text not in {end.text for end in ended})
    yield from troubles.damaged(record, saved)
    yield from troubles.closed(record)
    yield from troubles.unsaved(record)
    yield from anomalies.rolled_back(record)
    yield from troubles.slow_loader(record)
    yield from troubles.flags(record)
    yield from troubles.failures(record)
    yield from troubles.began_again(record)
    yield from troubles.sections(sections)
    if record.damaged_lines:
        yield Reason(Gravity.NOTE, f"{record.damaged_lines:,} damaged lines in its logs were passed over")


def ends(record: RunRecord, saved: Saved) -> Iterator[Reason]:
    """What has ended a run that is not at its last step."""
    status, where = record.status, f"at step {record.step:,}"
    first = first_words(status.reason)
    if status.state == "halted":
        yield anomalies.ended_by(record) or Reason(Gravity.ENDED, first, step=status.step)
    elif status.state == "failed":
        yield Reason(Gravity.ENDED, f"an error {where}: {first}", kind="error", step=status.step)
    elif status.state == "stopped":
        yield Reason(Gravity.ENDED, f"on request {where}: {first}", kind="stopped", step=status.step)
    elif status.state == "not begun":
        known = "it has not begun: no process is there, and neither a log nor a checkpoint"
        yield Reason(Gravity.ENDED, "nobody knows whether it has begun" if record.unreadable else known)
    elif status.state == "died":
        still, activity = troubles.last_stand(record)
        before = f"; before that it had not moved for {duration(still)}{activity}" if still else ""
        began = "it died" if record.has_log else "it ended before its last step,"
        where = where if record.has_log else f"its newest checkpoint is that of step {record.step:,}"
        disk = (
            ", or its last words could not be written: its disk is full now"
            if FULL_DISK not in first and troubles.is_disk_full(record)
            else ""
        )
        text = f"{began} {where}: {first}{disk}{before}"
        yield Reason(Gravity.ENDED, text, again(record, saved), kind="died", step=status.step)


def again(record: RunRecord, saved: Saved) -> tuple[str, ...]:
    """What to do about a run that has died."""
    if saved.step is not None:
        goes_on = f"continues from step {saved.step:,}"
    elif newest_saved(record.directory) is None:
        goes_on = "begins anew, for there is no checkpoint"
    else:  # its checkpoints are damaged, cannot be read, or are gone
        goes_on = "says what is left of it"
    return (f"give the same command again: it {goes_on}",)


def standing(record: RunRecord) -> str:
    """How far a run is, and how long it takes: `step 12,300 of 50,000, loss 7.81, 2 d 4 h left`."""
    loss, left, last = record.newest("loss"), record.seconds_left, record.max_steps
    if record.status.state == "finished":
        parts = [f"finished at step {record.step:,}"]
    elif not record.has_log and record.step:
        parts = [f"its newest checkpoint is that of step {record.step:,}; no log is written"]
    elif not record.metrics:
        parts = ["starting, no row of metrics yet" if record.events else "no log yet: it starts, or writes none"]
    else:
        parts = [f"step {record.step:,}" + (f" of {last:,}" if last is not None else ", without end")]
    parts += [f"loss {loss:.4g}"] if loss is not None else []
    parts += [f"{duration(left)} left"] if left is not None else []
    return ", ".join(parts)
