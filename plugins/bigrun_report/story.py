"""What happened in a run: a table of it, and markers for all charts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bigrun.record.pace import whole
from bigrun_report.figures import clock, moment, shortened
from bigrun_report.parts import Marker, Part, Table

__all__ = ["markers_of", "story_part"]

Event = Mapping[str, Any]
SHOWN = 200
"""Rows of the table, the newest ones."""
STARTS = {"started", "resumed", "branched", "restarted"}
TOLD = {*STARTS, "rolled-back", "finished", "stopped", "error", "emergency-saved", "backbone-released"}
"""Told whatever their level is."""


def is_told(event: Event) -> bool:
    return event.get("level") in ("warning", "error") or event.get("kind") in TOLD


def markers_of(events: Sequence[Event]) -> tuple[Marker, ...]:
    """A marker for each event that is told; `started` at the beginning of a run is none."""
    markers = []
    for event in events:
        step = whole(event.get("step"))
        if not is_told(event) or step is None:
            continue
        kind = event.get("kind")
        if kind in ("finished", "stopped") or (kind in STARTS and step == 0):
            continue
        markers.append(Marker(float(step), sort_of(kind), f"step {step:,}: {kind}: {message(event)}"))
    return tuple(markers)


def sort_of(kind: Any) -> Any:
    if kind in ("anomaly", "error"):
        return "anomaly"
    return "rolled-back" if kind == "rolled-back" else ("start" if kind in STARTS else "other")


def story_part(events: Sequence[Event]) -> Part:
    """Anomalies, what was done about them, and everything else that people should know, newest first."""
    told = [event for event in events if is_told(event)]
    rows = [row(event) for event in reversed(told[-SHOWN:])]
    lines = []
    anomalies = Counter(named(facts(event).get("anomaly", "?")) for event in told if event.get("kind") == "anomaly")
    if anomalies:
        lines.append(f"anomalies: {', '.join(f'{count:,} x {name}' for name, count in anomalies.most_common(12))}")
    back = [facts(event) for event in told if event.get("kind") == "rolled-back"]
    if back:
        ways = ", ".join(f"from step {named(f.get('from_step'))} to {named(f.get('to_step'))}" for f in back[-5:])
        lines.append(f"rolled back, {len(back):,} x: {ways}")
    if len(told) > SHOWN:
        lines.append(f"the newest {SHOWN} of {len(told):,} are shown; events.jsonl has all")
    if not told:
        lines.append("Nothing happened that people should know.")
    tables = (Table(("step", "time", "level", "what", "action", "in words"), tuple(rows)),) if rows else ()
    return Part("Anomalies and actions", lines=tuple(lines), tables=tables)


def row(event: Event) -> tuple[str, ...]:
    step, found = whole(event.get("step")), facts(event)
    return (
        "" if step is None else f"{step:,}",
        clock(moment(event.get("time_utc"))).removesuffix(" UTC"),
        str(event.get("level", "")),
        named(found.get("anomaly") or found.get("flag") or event.get("kind", "")),
        named(found.get("action", "")),
        message(event),
    )


def named(fact: Any) -> str:
    """A fact that should be a word or a number."""
    return shortened(str(fact), 80)


def message(event: Event) -> str:
    return shortened(str(event.get("message", "")).partition("\n")[0], 400)


def facts(event: Event) -> Mapping[str, Any]:
    found = event.get("facts")
    return found if isinstance(found, Mapping) else {}
