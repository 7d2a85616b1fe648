"""Which anomalies of a run are its trouble now, and which are its history.

An anomaly is said once when it begins and again every thousand steps while it lasts, and nothing says that it is over.
So one that was answered with a warning, a save or a halt is the trouble of now for as long as its next reminder may
still come. One that was skipped, or rolled back, concerned its step alone: it is history 50 steps later, unless three
of its kind came within a thousand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigrun.anomaly import Action
from bigrun.record.reason import Gravity, Reason
from bigrun.record.status import BEGINS

if TYPE_CHECKING:
    from bigrun.record.record import RunRecord

__all__ = ["anomalies", "ended_by", "rolled_back"]

Event = Mapping[str, Any]
REMINDED_STEPS = 1000
"""The longest time between two reports of an anomaly that lasts, in steps."""
ISOLATED_STEPS = 50
"""An anomaly of one step is history after so many."""
MANY = 3
"""So many of a kind within `REMINDED_STEPS` are none that come alone."""
BACK, HALT = Action.ROLL_BACK.value, Action.HALT.value
MOMENTARY = (Action.SKIP.value, BACK)
STRENGTH = [action.value for action in Action]
SHOWN = 3
"""Reasons of one kind, and numbers of a step, that are named."""
SINCE = re.compile(r", since step (\d+)$")
"""How a report of what lasts ends."""


def anomalies(record: RunRecord) -> Iterator[Reason]:
    """The trouble of now, the strongest answer first, and a note of what was."""
    events = of_this_course(record.events)
    groups: dict[tuple[str, str], list[Event]] = {}
    for event in events:
        groups.setdefault(group_of(event), []).append(event)
    # What began last is what the others have become.
    told = sorted(groups.values(), key=lambda group: (-strength(group[-1]), -group[0]["step"], kind_of(group[0])))
    current = [reason for group in told for reason in judge(group, record)]
    yield from (reason for n, reason in enumerate(current) if count_of(reason.kind, current[:n]) < SHOWN)
    if events and not current:
        last, count = events[-1], len(events)
        plural = "y" if count == 1 else "ies"
        yield Reason(Gravity.NOTE, f"{count} anomal{plural} so far, all over; the last one: {seen(last)}")


def group_of(event: Event) -> tuple[str, str]:
    """What belongs together: reports of one condition that lasts, which say the same; and bad steps of one kind."""
    is_momentary = action_of(event) in MOMENTARY
    return kind_of(event), "" if is_momentary else SINCE.sub("", message_of(event))


def count_of(kind: str, reasons: Sequence[Reason]) -> int:
    return sum(reason.kind == kind for reason in reasons)


def of_this_course(events: Sequence[Event]) -> list[Event]:
    """The anomalies of the steps that the run now has behind it: not those that it went back from, or that the process
    before met in steps which were taken again."""
    kept: list[Event] = []
    for event in events:
        if event["kind"] == BEGINS:
            kept = [old for old in kept if old["step"] <= event["step"]]
        elif event["kind"] == "anomaly":
            kept.append(event)
    return kept


def judge(told: list[Event], record: RunRecord) -> Iterator[Reason]:
    """A reason, when the anomalies of one kind are the trouble of now."""
    last, rows = told[-1], record.option("run", "log_every_steps")
    since = record.step - last["step"]
    late = 2 * rows if isinstance(rows, int) else 0  # judged at the next row, of which the newest may not be here yet
    if action_of(last) not in MOMENTARY:
        if since <= REMINDED_STEPS + late:
            yield reason(last, Gravity.LASTS, seen(last))
        return
    many = [event for event in told if record.step - event["step"] <= REMINDED_STEPS]
    if len(many) >= MANY:
        text = f"{seen(last)}; one of {len(many)} such steps in the last {REMINDED_STEPS:,}"
        yield reason(last, Gravity.PASSED, text)
    elif since <= ISOLATED_STEPS:
        then = "the step was skipped" if action_of(last) == Action.SKIP.value else "the run went back"
        yield reason(last, Gravity.PASSED, f"{seen(last)}; {then}")


def ended_by(record: RunRecord) -> Reason | None:
    """The anomaly that ended a run which was halted; None when no log tells of it. Of several of one step it is the
    first one that was answered so, as `bigrun.response` has it."""
    events = record.events
    begin = max((n for n, event in enumerate(events) if event["kind"] == BEGINS), default=-1)
    halting = [event for event in events[begin + 1 :] if event["kind"] == "anomaly" and action_of(event) == HALT]
    first = next((event for event in halting if event["step"] == halting[-1]["step"]), None)
    return None if first is None else reason(first, Gravity.ENDED, seen(first))


def rolled_back(record: RunRecord) -> Iterator[Reason]:
    """That the run went back, until it is past that step again."""
    for event in record.events_of("rolled-back")[-1:]:
        came_from, to = event["facts"].get("from_step"), event["facts"].get("to_step")
        if isinstance(came_from, int) and isinstance(to, int) and to <= record.step <= came_from + ISOLATED_STEPS:
            before = [e for e in record.events_of("anomaly") if e["step"] == came_from and action_of(e) == BACK]
            why = seen(before[-1]) if before else str(event["facts"].get("anomaly", "an anomaly"))
            text = f"{why}; the run went back from step {came_from:,} to {to:,}"
            yield Reason(Gravity.PASSED, text, kind="rolled-back", step=came_from)


def reason(event: Event, gravity: Gravity, text: str) -> Reason:
    advice, causes = (texts(event["facts"].get(name)) for name in ("advice", "causes"))
    return Reason(gravity, text, advice, causes, kind_of(event), event["step"])


def seen(event: Event) -> str:
    """What is wrong and since when: `collapse since step 1,200: class tokens are almost the same`. Of numbers that are
    not finite the loss terms go first: they tell the cause, the others follow from them."""
    kind, message = kind_of(event), message_of(event)
    if kind == "nonfinite":
        return f"{not_finite(event) or message}, {at(event)}"
    since, name = SINCE.search(message), kind.replace("-", " ")
    if since:
        return f"{name} since step {int(since[1]):,}: {SINCE.sub('', message)}"
    return f"{name} {at(event)}: {message}"


def not_finite(event: Event) -> str:
    evidence = event["facts"].get("evidence")
    values = evidence if isinstance(evidence, dict) else {}
    names = sorted(values, key=lambda name: (not name.startswith("loss/"), name))
    shown = ", ".join(f"{name} = {values[name]}" for name in names[:SHOWN])
    return f"not finite: {shown}" if shown else ""


def message_of(event: Event) -> str:
    """Without the step, which it begins with."""
    return str(event["message"]).removeprefix(f"step {event['step']}: ")


def at(event: Event) -> str:
    return f"at step {event['step']:,}"


def kind_of(event: Event) -> str:
    return str(event["facts"].get("anomaly", "anomaly"))


def action_of(event: Event) -> str:
    return str(event["facts"].get("action", ""))


def strength(event: Event) -> int:
    action = action_of(event)
    return STRENGTH.index(action) if action in STRENGTH else -1


def texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
