"""How far a run is, and how long it still takes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from bigrun.record.pace import number
from bigrun.record.record import RunRecord
from bigrun.record.words import duration
from bigrun_report.figures import clock, figure, moment
from bigrun_report.parts import Part, Table

__all__ = ["facts_of", "fraction_of", "next_page", "progress_part"]

DRAWING_SECONDS = 120.0
"""A page is drawn after the step in which it is due, in some seconds; its time is told to the minute."""


def fraction_of(record: RunRecord) -> float | None:
    """How much of the run is done; None for one without end."""
    return min(record.step / record.max_steps, 1.0) if record.max_steps else None


def progress_part(record: RunRecord, now: datetime) -> Part:
    fraction, left, pace = fraction_of(record), record.seconds_left, record.pace
    of = "without end" if fraction is None else f"of {record.max_steps:,} ({fraction:.1%})"
    rows = [("state", record.status.state), ("step", f"{record.step:,} {of}")]
    if record.images_seen is not None:
        rows.append(("images", f"{record.images_seen:,}"))
    if left is not None:
        rows.append(("still to go", f"{duration(left)}, until about {clock(now + timedelta(seconds=min(left, 1e9)))}"))
    if pace.images_per_second is not None:
        rows.append(
            ("speed", f"{figure(pace.images_per_second)} images/s, {figure(pace.steps_per_second or 0)} steps/s")
        )
    if pace.data_wait_fraction is not None:
        rows.append(("waiting for images", f"{pace.data_wait_fraction:.1%} of the time"))
    if record.checkpoint_age_seconds is not None:
        rows.append(("newest checkpoint", f"{duration(record.checkpoint_age_seconds)} ago"))
    if record.owner is not None:
        rows.append(("process", f"{record.owner.pid} on {record.owner.host}"))
    if record.events:
        rows.append(("began", clock(moment(record.events[0].get("time_utc")))))
    if record.silent_seconds is not None:
        rows.append(("newest sign of life", f"{duration(record.silent_seconds)} ago"))
    lines = () if record.metrics else ("No step has been logged yet.",)
    return Part("Progress", lines=lines, tables=(Table(("", ""), tuple(rows), are_tiles=True),))


def next_page(record: RunRecord, now: datetime) -> str:
    """When the next page of a running run replaces this one, which does not see it die; "" for one that has ended, or
    draws none."""
    plugins = record.config.get("plugins")
    options = plugins.get("health-report") if isinstance(plugins, Mapping) else None
    every = number(options, "every_minutes") if isinstance(options, Mapping) else None
    if every is None or not record.status.is_running:
        return ""
    step = 1 / record.pace.steps_per_second if record.pace.steps_per_second else 0.0
    due = now + timedelta(seconds=min(max(every, 0) * 60 + DRAWING_SECONDS + 2 * step, 1e9))
    run = shlex.quote(str(record.directory.resolve()))
    return (
        f"The next page is due by {clock(due)}. If that is past and this one is still here, the run may be saving, or "
        f"gone: look with bigrun watch {run}"
    )


def facts_of(record: RunRecord) -> dict[str, Any]:
    """For programs; what is not known is absent."""
    pace = record.pace
    found = {
        "directory": str(record.directory),
        "state": record.status.state,
        "step": record.step,
        "max_steps": record.max_steps,
        "fraction": fraction_of(record),
        "images": record.images_seen,
        "seconds_left": record.seconds_left,
        "loss": record.newest("loss"),
        "steps_per_second": pace.steps_per_second,
        "images_per_second": pace.images_per_second,
        "data_wait_fraction": pace.data_wait_fraction,
        "checkpoint_age_seconds": record.checkpoint_age_seconds,
        "silent_seconds": record.silent_seconds,
    }
    return {name: value for name, value in found.items() if value is not None}
