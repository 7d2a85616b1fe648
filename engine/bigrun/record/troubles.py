"""What is wrong with a run besides its anomalies: that it stands still, cannot save, is slow, or has lost a part."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigrun.data.wait import TOO_LONG
from bigrun.logs import ANOMALY, CHECKPOINT, ERROR, STARTED
from bigrun.record.pace import number
from bigrun.record.reason import Gravity, Reason
from bigrun.record.sound import Saved
from bigrun.record.status import epoch_seconds
from bigrun.record.words import addressed, duration
from bigrun.sections.run import RunSection

if TYPE_CHECKING:
    from bigrun.record.record import RunRecord

__all__ = [
    "DAMAGED",
    "UNREADABLE",
    "began_again",
    "damaged",
    "failures",
    "flags",
    "is_disk_full",
    "last_stand",
    "sections",
    "slow_loader",
    "standstill",
    "unsaved",
]

Event = Mapping[str, Any]
STILL_SECONDS, STILL_STEPS = 300.0, 10
FRESH_SECONDS = 120.0
"""A row of telemetry that is older tells nothing of now."""
WAIT_ROWS = 2
DAY_SECONDS = 86_400.0
"""What has failed once is trouble for a day: a person looks once a day."""
FULL_BYTES = 2**16
"""Where a user has less than that, neither a block of a log nor a file of a few words can be written."""
DAMAGED, UNREADABLE = "checkpoint-damaged", "unreadable"
"""Kinds of what is so now, whatever has ended the run before."""
OWN_ERROR = re.compile(r"^observer (\S+) failed in \w+: bigrun\.errors\.\w+: ")
ACTIVITIES = {
    "start": "while it starts",
    "data": "waiting for images",
    "step": "in the middle of a step",
    "observe": "while plugins look at it",
    "checkpoint": "while it saves",
    "end": "at its end",
}


def standstill(record: RunRecord) -> Iterator[Reason]:
    """A run that has a process and does not move: no row for ten steps' time beyond the next one, and 300 s."""
    still, activity = still_seconds(record)
    if still is None or not record.status.is_running:
        return
    speed, steps = record.pace.steps_per_second, STILL_STEPS + (record.count("run", "log_every_steps") or 0)
    first = limit_seconds(record, "first_step_limit_seconds")
    limit = max(STILL_SECONDS, steps / speed) if speed else first
    if activity in ("start", "end"):
        limit = max(limit, first)
    if activity == "checkpoint":
        limit = limit_seconds(record, "save_limit_seconds")
    if still >= limit:
        where = f", {ACTIVITIES[activity]}" if activity in ACTIVITIES else ""
        text = f"it stands still: not moved for {duration(still)}, at step {record.step:,}{where}"
        yield Reason(Gravity.STANDS, text, step=record.step)


def limit_seconds(record: RunRecord, name: str) -> float:
    """A limit of the run's configuration; the usual one for a run that was begun before there was that option."""
    return number({name: record.option("run", name)}, name) or getattr(RunSection(), name)


def still_seconds(record: RunRecord) -> tuple[float | None, str | None]:
    """For how long nothing has moved, and what the process is doing; None where nobody knows."""
    row, age = record.telemetry[-1] if record.telemetry else {}, record.telemetry_age_seconds
    still, activity = number(row, "standstill_seconds"), row.get("activity")
    if age is not None and age < FRESH_SECONDS and still is not None:
        return still + age, activity if isinstance(activity, str) else None
    last = epoch_seconds(record.events[-1].get("time_utc")) if record.events else None
    ages = [record.row_age_seconds, None if last is None else max(record.read_at - last, 0.0)]
    return min((age for age in ages if age is not None), default=None), None


def last_stand(record: RunRecord) -> tuple[float | None, str]:
    """For how long a process that died had not moved before, by its last row of telemetry, when that is long; and in
    words what it was doing."""
    row = record.telemetry[-1] if record.telemetry else {}
    still, activity = number(row, "standstill_seconds"), str(row.get("activity"))
    if still is None or still < STILL_SECONDS:
        return None, ""
    return still, f", {ACTIVITIES[activity]}" if activity in ACTIVITIES else ""


def damaged(record: RunRecord, saved: Saved) -> Iterator[Reason]:
    """The newest checkpoint is not what was written."""
    entry = saved.damaged
    if entry is None or entry.step is None:
        return
    why = f" ({entry.problems[0]})" if entry.problems else ""
    check = addressed("`bigrun checkpoints verify RUN`", record.directory, None)
    left = "there is no other" if saved.step is None else f"a start would continue from step {saved.step:,}"
    text = f"the newest checkpoint, step {entry.step:,}, is damaged{why}: {check.strip('`')}"
    yield Reason(Gravity.UNSAVED, text, (f"{check} reads all of them; {left}",), kind=DAMAGED, step=entry.step)


def is_disk_full(record: RunRecord) -> bool:
    """Whether nothing can be written to the run's directory now; False where nobody knows."""
    with contextlib.suppress(OSError):
        disk = os.statvfs(record.directory)
        return disk.f_bavail * disk.f_frsize < FULL_BYTES
    return False


def closed(record: RunRecord) -> Iterator[Reason]:
    """What of the run may not be read, so that nobody knows how it is."""
    for text in record.unreadable:
        yield Reason(Gravity.UNSAVED, text, ("make it readable for the user of this command",), kind=UNREADABLE)


def unsaved(record: RunRecord) -> Iterator[Reason]:
    """The newest checkpoint could not be saved; or there is room for one more, until two have been saved since."""
    saved_since = 0
    for event in reversed(record.events):
        if event["kind"] == CHECKPOINT:
            saved_since += 1
        if saved_since == 2:
            return
        if (event["kind"] == "checkpoint-failed" and not saved_since) or event["kind"] == "disk-space-low":
            yield Reason(Gravity.UNSAVED, event["message"], kind=event["kind"], step=event["step"])
            return


def flags(record: RunRecord) -> Iterator[Reason]:
    """Flags of telemetry that are up: alarms, and warnings. A flag is of one process, and down when it is over."""
    if record.status.state in ("finished", "stopped"):
        return
    up: dict[str, Event] = {}
    for event in of_newest_process(record.events):
        flag = event["facts"].get("flag")
        if isinstance(flag, str):
            up.pop(flag, None)
            if event["facts"].get("state") in ("began", "worse"):
                up[flag] = event
    for flag, event in up.items():
        level = event.get("level")
        if level in ("warning", "error"):
            gravity = Gravity.ALARM if level == "error" else Gravity.WARNING
            yield Reason(gravity, event["message"], kind=flag, step=event["step"])


def slow_loader(record: RunRecord) -> Iterator[Reason]:
    """Steps wait for images for more than a tenth of the time: the limit of the engine's own event `data-wait`."""
    pace = record.pace
    share = pace.data_wait_fraction
    if share is None or share <= TOO_LONG or pace.rows < WAIT_ROWS or not record.status.is_running:
        return
    told = record.events_of("data-wait")[-1:]
    advice = tuple(event["message"].partition(": ")[2] for event in told)
    yield Reason(Gravity.ALARM, f"the loader is too slow: data wait {share:.0%}", advice, kind="data-wait")


def failures(record: RunRecord) -> Iterator[Reason]:
    """Errors of the last day that nothing has put right, and observers that are switched off in this process."""
    off = {str(e["facts"].get("plugin")): e for e in of_newest_process(record.events) if e["kind"] == "quarantined"}
    why = {str(e["facts"].get("plugin")): e for e in record.events_of("observer-failed")}
    for plugin, event in off.items():
        text = f"{said(why[plugin])}; it is switched off" if plugin in why else event["message"]
        yield Reason(Gravity.BROKEN, text, kind="quarantined", step=event["step"])
    newest: dict[str, Event] = {}
    for event in recent(record):
        kind = event["kind"]
        if kind.endswith("-recovered"):
            newest.pop(key_of(event), None)
        elif kind.endswith(("-degraded", "-low")) or event.get("level") == "error":
            newest[key_of(event)] = event
    handled = {"checkpoint-failed", "disk-space-low", ERROR, ANOMALY}
    for event in newest.values():
        is_off = event["kind"] == "observer-failed" and str(event["facts"].get("plugin")) in off
        if event["kind"] not in handled and "flag" not in event["facts"] and not is_off:
            yield Reason(Gravity.BROKEN, said(event), kind=event["kind"], step=event["step"])


def said(event: Event) -> str:
    """What an event says; what an observer has refused with words for people, without the names of hook and class."""
    return OWN_ERROR.sub(r"\1: ", event["message"])


def key_of(event: Event) -> str:
    """The same for an event and the one that says that it is over: `memory-low` and `memory-recovered` of the GPU."""
    stem = event["kind"]
    for end in ("-degraded", "-low", "-recovered"):
        stem = stem.removesuffix(end)
    return f"{stem}/{event['facts'].get('memory', '')}/{event['facts'].get('plugin', '')}"


def began_again(record: RunRecord) -> Iterator[Reason]:
    """It crashed or hung in the last day, and goes on."""
    told = [event for event in recent(record) if event["kind"] in ("restarted", "hang")]
    for event in told[-1:]:
        times = f", the last of {len(told)} such events in a day" if len(told) > 1 else ""
        text = f"{event['message']}{times}"
        yield Reason(Gravity.BEGAN_AGAIN, text, kind=event["kind"], step=event["step"])


def sections(answers: Sequence[Mapping[str, Any]]) -> Iterator[Reason]:
    """Sections of the health report that have failed; those that warn are notes."""
    for answer in answers:
        status, lines = answer.get("status"), answer.get("lines")
        if status in ("fail", "warn"):
            first = str(lines[0]) if isinstance(lines, list | tuple) and lines else "see its section"
            gravity = Gravity.SECTION if status == "fail" else Gravity.NOTE
            yield Reason(gravity, f"{answer.get('title', 'a section')}: {first}", kind="section")


def of_newest_process(events: Sequence[Event]) -> list[Event]:
    """The events since the newest start."""
    begin = next((n for n in range(len(events) - 1, -1, -1) if events[n]["kind"] == STARTED), 0)
    return list(events[begin:])


def recent(record: RunRecord) -> list[Event]:
    """The events of the last day that the run was alive."""
    now = record.read_at if record.status.is_running else record.read_at - (record.silent_seconds or 0.0)
    times = [(event, epoch_seconds(event.get("time_utc"))) for event in record.events]
    return [event for event, moment in times if moment is not None and now - moment <= DAY_SECONDS]
