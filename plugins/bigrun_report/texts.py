"""The report as Markdown for mail, and as JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import attrs

from bigrun.terminal import printable
from bigrun_report.figures import clock, figure
from bigrun_report.parts import Chart, Line, Part, Report, Table

__all__ = ["json_of", "markdown_of"]

WORDS = {"none": "not judged"}
POINTS = 200
"""Of a curve in JSON, evenly spread over its steps."""
SPECIAL = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]<>|#"})


def markdown_of(report: Report) -> str:
    """The report without pictures: of a curve, where it began, its range and where it is."""
    return "\n".join([*markdown_lines(report), ""])


def markdown_lines(report: Report) -> Iterator[str]:
    yield safe(report.headline)
    yield ""
    for reason in report.reasons:
        yield f"- {safe(reason.text)}"
        yield from (f"  - try: {safe(advice)}" for advice in reason.advice)
    yield ""
    yield f"{safe(report.title)}, as its files were on {clock(report.made)}"
    for part in report.parts:
        yield from part_lines(part, 2)


def part_lines(part: Part, level: int) -> Iterator[str]:
    status = f" ({WORDS.get(part.status, part.status)})" if part.status else ""
    yield from ("", f"{'#' * level} {safe(part.title)}{status}", "")
    yield from (f"- {safe(line)}" for line in part.lines)
    tables = [*part.tables, *([chart_table(part.charts)] if part.charts else [])]
    for table in tables:
        yield from ("", *table_lines(table))
    yield from (f"- picture: {safe(picture.caption)}" for picture in part.pictures)
    for inner in part.parts:
        yield from part_lines(inner, min(level + 1, 6))


def chart_table(charts: tuple[Chart, ...]) -> Table:
    rows = tuple(row(chart, line) for chart in charts for line in chart.lines)
    return Table(("chart", "curve", "unit", "first", "lowest", "highest", "last"), rows)


def row(chart: Chart, line: Line) -> tuple[str, ...]:
    values = line.series.finite.values
    ends = (values[0], values.min(), values.max(), values[-1]) if len(values) else ()
    return (chart.title, line.label, chart.unit, *(figure(float(v)) for v in ends), *[""] * (4 - len(ends)))


def table_lines(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(map(safe, table.columns))} |"
    yield f"|{'---|' * len(table.columns)}"
    yield from (f"| {' | '.join(map(safe, cells))} |" for cells in table.rows)


def safe(text: str) -> str:
    """A text that Markdown shows as it is, in one line."""
    return printable(text).replace("\n", " ").translate(SPECIAL)


def json_of(report: Report) -> str:
    """The report with thinned curves and without pictures, as strict JSON."""
    document = {
        "format_version": 1,
        "run": report.title,
        "level": report.level,
        "headline": report.headline,
        "reasons": [
            {"text": r.text, "kind": r.kind, "step": r.step, "causes": list(r.causes), "advice": list(r.advice)}
            for r in report.reasons
        ],
        "made_utc": report.made.isoformat(timespec="seconds"),
        "x": report.x_label,
        **report.facts,
        "parts": [part_json(part) for part in report.parts],
        "marks": [attrs.asdict(marker) for marker in report.markers],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def part_json(part: Part) -> dict[str, Any]:
    return {
        "title": part.title,
        "status": part.status,
        "lines": list(part.lines),
        "tables": [
            {"columns": list(table.columns), "rows": [list(cells) for cells in table.rows]} for table in part.tables
        ],
        "charts": [chart_json(chart) for chart in part.charts],
        "pictures": [picture.caption for picture in part.pictures],
        "parts": [part_json(inner) for inner in part.parts],
    }


def chart_json(chart: Chart) -> dict[str, Any]:
    return {
        "title": chart.title,
        "unit": chart.unit,
        "lines": [{"label": line.label, **line_json(line)} for line in chart.lines],
    }


def line_json(line: Line) -> dict[str, Any]:
    series = line.series.finite
    if not len(series):
        return {"x": [], "mean": [], "low": [], "high": [], "last": None}
    thin = series.thinned(float(series.x[0]), float(series.x[-1]), POINTS)
    columns = {"x": thin.x, "mean": thin.mean, "low": thin.low, "high": thin.high}
    last = float(series.values[-1])
    return {k: [float(f"{v:.6g}") for v in a.tolist()] for k, a in columns.items()} | {
        "last": last if math.isfinite(last) else None
    }
