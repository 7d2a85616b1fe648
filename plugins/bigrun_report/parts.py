"""What a report is made of, before anybody writes it down: parts with lines, tables, charts and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import attrs

from bigrun.record.reason import Reason
from bigrun.record.verdict import Level
from bigrun_report.scale import Kind
from bigrun_report.series import Series

__all__ = ["Band", "Chart", "Line", "Marker", "Part", "Picture", "Report", "Status", "Table", "texts_changed"]

Status = Literal["ok", "warn", "fail", "none"]
"""`none`: nothing was judged."""


@attrs.frozen
class Table:
    """Cells of text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    are_tiles: bool = False
    """Names and short values, which stand beside each other."""


@attrs.frozen(eq=False)
class Band:
    """Where a curve is expected: between two series over the same x."""

    low: Series
    high: Series


@attrs.frozen(eq=False)
class Line:
    """One curve of a chart."""

    label: str
    series: Series
    style: int | None = None
    """Which colour and pattern it has, where that says whose it is; None: by its place on the chart."""


@attrs.frozen(eq=False)
class Chart:
    """Curves of one unit."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    scale: Kind = "linear"
    band: Band | None = None
    fills: bool = False
    """However little its values differ, they fill the height: of schedules, whose bends are to be seen."""

    @property
    def styled(self) -> list[tuple[int, Line]]:
        """Each line with the number of its colour and pattern."""
        return [(place if line.style is None else line.style, line) for place, line in enumerate(self.lines)]


@attrs.frozen
class Marker:
    """Something that happened at a step, as all charts show it."""

    x: float
    kind: Literal["anomaly", "rolled-back", "start", "other"]
    text: str


@attrs.frozen
class Picture:
    """A file of the run directory, as the URL of its data; no URL where it cannot be shown."""

    caption: str
    url: str = ""


@attrs.frozen(eq=False)
class Part:
    """A part with a heading."""

    title: str
    status: Status | None = None
    lines: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    pictures: tuple[Picture, ...] = ()
    parts: tuple[Part, ...] = ()
    is_long: bool = False
    """For whoever asks: shown closed."""

    @property
    def is_empty(self) -> bool:
        return not (self.lines or self.tables or self.charts or self.pictures or self.parts)


@attrs.frozen(eq=False)
class Report:
    """All that is said about a run at a moment."""

    title: str
    """Which run."""
    level: Level
    headline: str
    """The status in a line; nothing stands before it."""
    reasons: tuple[Reason, ...]
    made: datetime
    parts: tuple[Part, ...]
    markers: tuple[Marker, ...] = ()
    fraction: float | None = None
    """How much of the run is done; None for one without end."""
    until: str = ""
    """Of a page that is replaced by another: until when it is not old."""
    x_label: str = "optimizer step"
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    """For programs."""


def texts_changed(value: Any, change: Any) -> Any:
    """The same parts with every text changed; numbers, times and pictures' data stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Picture):
        return attrs.evolve(value, caption=change(value.caption))
    if isinstance(value, Series):
        return value
    if isinstance(value, Mapping):
        return {change(str(key)): texts_changed(inner, change) for key, inner in value.items()}
    if isinstance(value, Sequence):
        return type(value)(texts_changed(inner, change) for inner in value)  # type: ignore[call-arg]
    if attrs.has(type(value)):
        fields = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
        return attrs.evolve(value, **{name: texts_changed(inner, change) for name, inner in fields.items()})
    return value
