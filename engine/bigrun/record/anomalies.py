"""Which anomalies of a run are its trouble now, and which are its history.

One that lasts (`facts.lasts`) is the trouble of now until the event `anomaly-over` of its kind, onset and evidence. One
that was skipped, or rolled back, concerned its step alone: it is history 50 steps later, unless three of its kind came
within a thousand. Of any other, as in logs that are older than that event, nothing says that it is over: it counts as
long as it may be said again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigrun.anomaly import SEVERITIES, USUAL_SEVERITY, Action
from bigrun.logs import ANOMALY, ANOMALY_OVER, STARTED
from bigrun.record.pace import whole
from bigrun.record.reason import Gravity, Reason
from bigrun.record.words import addressed

if TYPE_CHECKING:
    from bigrun.record.record import RunRecord

__all__ = ["anomalies", "ended_by", "rolled_back"]

Event = Mapping[str, Any]
REMINDED_STEPS = 1000
"""For so long an anomaly may be said again of which nobody says that it is over."""
ISOLATED_STEPS = 50
"""An anomaly of one step is history after so many."""
MANY = 3
"""So many of a kind within `REMINDED_STEPS` are none that come alone."""
BACK, HALT = Action.ROLL_BACK.value, Action.HALT.value
MOMENTARY = (Action.SKIP.value, BACK)
STRENGTH = [action.value for action in Action]
SHOWN = 3
"""Reasons of one kind that are named."""
NAMED = 2
"""Numbers of a step that are named."""
SINCE = re.compile(r", since step (\d{1,16})$")
"""How a report of what lasts ends, where its facts have no onset."""


def anomalies(record: RunRecord) -> Iterator[Reason]:
    """The trouble of now, and a note of what was. The strongest answer goes first, of those the gravest by its own
    word, of those what began last."""
    course = of_this_course(record.events)
    events = [event for event in course if event["kind"] == ANOMALY]
    groups: dict[tuple[str, str], list[Event]] = {}
    for event in course:
        if event["kind"] == ANOMALY:
            groups.setdefault(group_of(event), []).append(event)
        else:
            groups = {group: told for group, told in groups.items() if not ends(event, told[-1])}
    # What began last is what the others have become.
    told = sorted(groups.values(), key=rank)
    current = [reason for group in told for reason in judge(group, record)]
    yield from (reason for n, reason in enumerate(current) if count_of(reason.kind, current[:n]) < SHOWN)
    if events and not current:
        last, count = events[-1], len(events)
        plural = "y" if count == 1 else "ies"
        yield Reason(Gravity.NOTE, f"{count} anomal{plural} so far, all over; the last one: {seen(last)}")


def rank(group: list[Event]) -> tuple[int, int, int, str]:
    """By which anomalies are sorted, the first to be read first."""
    first, last = group[0], group[-1]
    return -strength(last), -severity(last), -first["step"], kind_of(first)


def group_of(event: Event) -> tuple[str, str]:
    """What belongs together: reports of one condition, of the same onset and evidence, or which say the same; and bad
    steps of one kind."""
    if lasts(event):
        return kind_of(event), f"{onset_of(event)} {evidence_of(event)}"
    is_momentary = action_of(event) in MOMENTARY
    return kind_of(event), "" if is_momentary else SINCE.sub("", message_of(event))


def lasts(event: Event) -> bool:
    """Whether somebody will say that it is over. What was rolled back is history."""
    return event["facts"].get("lasts") is True and action_of(event) != BACK


def ends(over: Event, event: Event) -> bool:
    """Whether an anomaly is the one that is said to be over."""
    is_same = lasts(event) and kind_of(over) == kind_of(event)
    if not is_same or whole(over["facts"].get("since")) != onset_of(event):
        return False
    return not evidence_of(over) or evidence_of(over) == evidence_of(event)


def evidence_of(event: Event) -> list[str]:
    """The names of its evidence."""
    evidence = event["facts"].get("evidence")
    return sorted(map(str, evidence)) if isinstance(evidence, dict | list) else []


def count_of(kind: str, reasons: Sequence[Reason]) -> int:
    return sum(reason.kind == kind for reason in reasons)


def of_this_course(events: Sequence[Event]) -> list[Event]:
    """The anomalies, and the ends of some, of the steps that the run now has behind it: not those that it went back
    from, or that the process before met in steps which were taken again."""
    kept: list[Event] = []
    for event in events:
        if event["kind"] == STARTED:
            kept = [old for old in kept if old["step"] <= event["step"]]
        elif event["kind"] in (ANOMALY, ANOMALY_OVER):
            kept.append(event)
    return kept


def judge(told: list[Event], record: RunRecord) -> Iterator[Reason]:
    """A reason, when the anomalies of one kind are the trouble of now."""
    last = told[-1]
    if lasts(last):
        yield reason(record, last, Gravity.LASTS, seen(last))
        return
    since = record.step - last["step"]
    # Judged at the next row, of which the newest may not be here yet.
    late = 2 * (record.count("run", "log_every_steps") or 0)
    if action_of(last) not in MOMENTARY:
        if since <= REMINDED_STEPS + late:
            yield reason(record, last, Gravity.LASTS, seen(last))
        return
    many = [event for event in told if record.step - event["step"] <= REMINDED_STEPS]
    if len(many) >= MANY:
        text = f"{seen(last)}; one of {len(many)} such steps in the last {REMINDED_STEPS:,}"
        yield reason(record, last, Gravity.PASSED, text)
    elif since <= ISOLATED_STEPS:
        then = "the step was skipped" if action_of(last) == Action.SKIP.value else "the run went back"
        yield reason(record, last, Gravity.PASSED, f"{seen(last)}; {then}")


def ended_by(record: RunRecord) -> Reason | None:
    """The anomaly that ended a run which was halted; None when no log tells of it. Of several of one step it is the
    first one that was answered so, as `bigrun.response` has it."""
    events = record.events
    begin = max((n for n, event in enumerate(events) if event["kind"] == STARTED), default=-1)
    halting = [event for event in events[begin + 1 :] if event["kind"] == ANOMALY and action_of(event) == HALT]
    first = next((event for event in halting if event["step"] == halting[-1]["step"]), None)
    return None if first is None else reason(record, first, Gravity.ENDED, seen(first))


def rolled_back(record: RunRecord) -> Iterator[Reason]:
    """That the run went back, until it is past that step again."""
    for event in record.events_of("rolled-back")[-1:]:
        came_from, to = (whole(event["facts"].get(name)) for name in ("from_step", "to_step"))
        if came_from is not None and to is not None and to <= record.step <= came_from + ISOLATED_STEPS:
            before = [e for e in record.events_of(ANOMALY) if e["step"] == came_from and action_of(e) == BACK]
            why = seen(before[-1]) if before else str(event["facts"].get("anomaly", "an anomaly"))
            text = f"{why}; the run went back from step {came_from:,} to {to:,}"
            yield Reason(Gravity.PASSED, text, kind="rolled-back", step=came_from)


def reason(record: RunRecord, event: Event, gravity: Gravity, text: str) -> Reason:
    advice, causes = (texts(event["facts"].get(name)) for name in ("advice", "causes"))
    advice = tuple(addressed(each, record.directory, step_of(event)) for each in advice)
    return Reason(gravity, text, advice, causes, kind_of(event), step_of(event))


def seen(event: Event) -> str:
    """What is wrong and since when: `collapse since step 1,200: class tokens are almost the same`. Of numbers that are
    not finite the loss terms go first: they tell the cause, the others follow from them."""
    kind, message = kind_of(event), message_of(event)
    if kind == "nonfinite":
        return f"{not_finite(event) or message}, {at(event)}"
    onset, name = onset_of(event), kind.replace("-", " ")
    is_moment = onset is None or onset == step_of(event) or action_of(event) in MOMENTARY
    when = at(event) if is_moment else f"since step {onset:,}"
    return f"{name} {when}: {SINCE.sub('', message)}"


def not_finite(event: Event) -> str:
    evidence = event["facts"].get("evidence")
    values = evidence if isinstance(evidence, dict) else {}
    names = sorted(values, key=lambda name: (not name.startswith("loss/"), name))
    shown = ", ".join(f"{name} = {values[name]}" for name in names[:NAMED])
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"not finite: {shown}{more}" if shown else ""


def message_of(event: Event) -> str:
    """Without the step, which it begins with."""
    return str(event["message"]).removeprefix(f"step {step_of(event)}: ")


def at(event: Event) -> str:
    return f"at step {step_of(event):,}"


def step_of(event: Event) -> int:
    """Where it was found; said it was at a row, which may be later."""
    step, said = whole(event["facts"].get("step")), int(event["step"])
    return said if step is None else step


def onset_of(event: Event) -> int | None:
    """Where it began; None where nobody says so."""
    onset = whole(event["facts"].get("onset"))
    since = SINCE.search(message_of(event)) if onset is None else None
    return int(since[1]) if since else onset


def kind_of(event: Event) -> str:
    return str(event["facts"].get("anomaly", "anomaly"))


def action_of(event: Event) -> str:
    return str(event["facts"].get("action", ""))


def strength(event: Event) -> int:
    action = action_of(event)
    return STRENGTH.index(action) if action in STRENGTH else -1


def severity(event: Event) -> int:
    """Older logs have none: that is the middle."""
    told = event["facts"].get("severity")
    return SEVERITIES.index(told if told in SEVERITIES else USUAL_SEVERITY)


def texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
