"""Several runs beside each other: curves on one chart, last values in one table, options that differ."""

from __future__ import annotations

import enum
import fnmatch
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
import numpy as np

from bigrun.errors import UsageError
from bigrun.record.pace import whole
from bigrun.record.record import RunRecord
from bigrun.redaction import Redactor
from bigrun.values import did_you_mean
from bigrun_report.belongings import options_that_differ
from bigrun_report.figures import figure, shortened
from bigrun_report.gather import redacted
from bigrun_report.parts import Chart, Line, Part, Report, Table
from bigrun_report.scale import Kind
from bigrun_report.series import Series, names_in, numbers, series_of

__all__ = ["Axis", "Comparison", "compared", "comparison_report"]

CHOSEN = ("loss", "loss/*", "probe/*", "health/*", "grad_norm", "learning_rate", "images_per_second")
MOST_OPTIONS = 200


class Axis(enum.StrEnum):
    """What runs are compared over."""

    STEP = "step"
    IMAGES = "images"
    HOURS = "hours"

    @property
    def label(self) -> str:
        return {"step": "optimizer step", "images": "images", "hours": "hours of training"}[self]


@attrs.frozen(eq=False)
class Curve:
    """A metric of all runs that have it."""

    name: str
    lines: tuple[Line, ...]


@attrs.frozen(eq=False)
class Comparison:
    """Runs beside each other."""

    labels: tuple[str, ...]
    axis: Axis
    curves: tuple[Curve, ...]
    status: Table
    last: Table
    options: Table

    def tables(self) -> list[tuple[str, Table]]:
        """What a terminal shows."""
        found = [("Runs", self.status), ("Last values", self.last), ("Options that differ", self.options)]
        return [(title, table) for title, table in found if table.rows]

    def as_parts(self) -> list[Part]:
        charts = tuple(Chart(c.name, "", c.lines, scale_of(c.name)) for c in self.curves)
        tables = self.tables()
        options = Part("Options that differ", tables=(self.options,)) if self.options.rows else None
        first = tuple(table for title, table in tables if title != "Options that differ")
        title = f"Comparison of {' and '.join(self.labels)}" if len(self.labels) < 4 else "Comparison"
        return [Part(title, tables=first, charts=charts, parts=() if options is None else (options,))]


def scale_of(name: str) -> Kind:
    return "log" if name.startswith("grad_norm") else "linear"


def compared(records: Sequence[RunRecord], axis: Axis, metrics: Sequence[str]) -> Comparison:
    """Compare runs.

    Args:
        metrics: names, in which `*` stands for anything; empty: loss, its terms, probes, health and speed.

    Raises:
        UsageError: no run has one of the metrics.
    """
    labels = labels_of(records)
    names = chosen(records, metrics)
    xs = [x_of(record, axis) for record in records]
    curves = []
    for name in names:
        series = [over(series_of(record.metrics, name), x) for record, x in zip(records, xs, strict=True)]
        runs = enumerate(zip(labels, series, strict=True))
        lines = (Line(label, values, style=run) for run, (label, values) in runs if len(values))
        curves.append(Curve(name, tuple(lines)))
    return Comparison(
        labels, axis, tuple(curve for curve in curves if curve.lines), status_table(labels, records),
        last_table(labels, records, names), option_table(labels, [record.config for record in records]),
    )  # fmt: skip


def comparison_report(comparison: Comparison, records: Sequence[RunRecord]) -> Report:
    """A page of nothing but the comparison; its first line is how the worst of the runs is."""
    from bigrun.record.verdict import verdict

    found = [verdict(record) for record in records]
    order = ("healthy", "look", "stopped")
    worst = max(range(len(found)), key=lambda n: order.index(found[n].level))
    headline = f"{comparison.labels[worst]}: {found[worst].headline}"
    report = Report(
        title=" and ".join(comparison.labels), level=found[worst].level, headline=headline, reasons=(),
        made=datetime.now(UTC), parts=tuple(comparison.as_parts()), x_label=comparison.axis.label,
        facts={"runs": [str(record.directory) for record in records]},
    )  # fmt: skip
    return redacted(report, Redactor.of_environment())


def labels_of(records: Sequence[RunRecord]) -> tuple[str, ...]:
    """The names of their directories, with that above where two are the same."""
    paths = [record.directory.resolve() for record in records]
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = ["/".join(path.parts[-2:]) for path in paths]
    return tuple(name if names.count(name) == 1 else f"{name} ({n})" for n, name in enumerate(names, 1))


def chosen(records: Sequence[RunRecord], patterns: Sequence[str]) -> list[str]:
    there = list(dict.fromkeys(name for record in records for name in names_in(record.metrics) if name != "step"))
    for pattern in patterns:
        if not fnmatch.filter(there, pattern):
            hint = did_you_mean(pattern, there)
            raise UsageError(f"--metric {pattern}: no run has it{hint}; there are: {shortened(', '.join(there), 400)}")
    return list(dict.fromkeys(n for p in (patterns or CHOSEN) for n in there if fnmatch.fnmatchcase(n, p)))


def x_of(record: RunRecord, axis: Axis) -> Series:
    """The axis' value at the steps of all rows. Hours are those in which steps were taken: how long a row's steps took
    is their number over `steps_per_second`."""
    steps = numbers([row["step"] for row in record.metrics])
    if axis is Axis.STEP:
        return Series(steps, steps)
    if axis is Axis.IMAGES:
        batch = whole(record.option("data", "effective_batch"))
        return Series(steps, steps * (np.nan if batch is None else batch))
    rates = numbers([row.get("steps_per_second") for row in record.metrics])
    with np.errstate(divide="ignore", invalid="ignore"):
        seconds = np.diff(steps, prepend=0.0) / rates
    return Series(steps, np.cumsum(np.where(np.isfinite(seconds), seconds, 0.0)) / 3600)


def over(series: Series, x: Series) -> Series:
    """The series over the value of `x` at its steps."""
    return Series.of(x.values[np.searchsorted(x.x, series.x)], series.values) if len(series) else series


def status_table(labels: Sequence[str], records: Sequence[RunRecord]) -> Table:
    rows = []
    for label, record in zip(labels, records, strict=True):
        pace = record.pace
        speed = "" if pace.images_per_second is None else figure(pace.images_per_second)
        of = "" if record.max_steps is None else f" of {record.max_steps:,}"
        images = "" if record.images_seen is None else f"{record.images_seen:,}"
        rows.append((label, str(record.status), f"{record.step:,}{of}", images, speed))
    return Table(("run", "state", "step", "images", "images/s"), tuple(rows))


def last_table(labels: Sequence[str], records: Sequence[RunRecord], names: Sequence[str]) -> Table:
    rows = []
    for name in names:
        values = [record.newest(name) for record in records]
        if any(value is not None for value in values):
            rows.append((name, *("" if value is None else figure(value) for value in values)))
    return Table(("metric", *labels), tuple(rows))


def option_table(labels: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> Table:
    redactor = Redactor.of_environment()
    found = options_that_differ([redactor.value(config) for config in configs])[:MOST_OPTIONS]
    cells = tuple((name, *("" if v is None else shortened(repr(v), 80) for v in values)) for name, values in found)
    return Table(("option", *labels), cells)
