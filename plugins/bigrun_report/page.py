"""The report as one page of HTML: no script, nothing from the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import bigrun.version
from bigrun.markup import Markup, element, join, page
from bigrun.record.reason import Reason
from bigrun_report.figures import clock, shortened
from bigrun_report.parts import Chart, Part, Picture, Report, Table
from bigrun_report.style import STYLE
from bigrun_report.svg import drawn, legend

__all__ = ["page_of"]

STATUS_WORDS = {"ok": "✓ ok", "warn": "! look", "fail": "✗ failed", "none": "- not judged"}
SIGNS = {"healthy": "✓", "look": "!", "stopped": "■"}
KEY = "Marks on the charts: ▲ anomaly or error, ◄ rolled back, │ started again, ◆ something else worth knowing."
SHORT = 22
"""Characters of a cell that is not broken."""
LABEL = 40
"""Characters of a column's title that each of its cells repeats, for a screen too narrow for a table."""


def page_of(report: Report) -> str:
    """The page."""
    body = element("body", header(report), main(report), footer(report))
    return page(f"{report.title}: {report.headline}", STYLE, body)


def header(report: Report) -> Markup:
    sign = element("span", f"{SIGNS[report.level]} ", aria_hidden="true")
    until = element("p", report.until, class_="until") if report.until else Markup()
    status = element("div", element("h1", sign, report.headline), until, class_=f"status {report.level}")
    parts = [status, reasons(report.reasons)]
    if report.fraction is not None:
        label = f"{report.fraction:.1%} done"
        parts.append(element("progress", label, max=1, value=f"{report.fraction:.4f}", aria_label=label))
    links = (element("li", element("a", part.title, href=f"#part-{n}")) for n, part in enumerate(report.parts))
    parts += [
        element("p", join(element("b", report.title), f", as its files were on {clock(report.made)}"), class_="faint"),
        element("nav", element("ul", *links), aria_label="Parts"),
    ]
    return element("header", *parts)


def reasons(found: Sequence[Reason]) -> Markup:
    """Each reason with its causes and what to do."""
    items = []
    for reason in found:
        why = [f"May come from: {'; '.join(reason.causes)}"] if reason.causes else []
        why += [f"Try: {'; '.join(reason.advice)}"] if reason.advice else []
        items.append(element("li", reason.text, *(element("span", line, class_="why") for line in why)))
    return element("ul", *items, class_="reasons") if items else Markup()


def main(report: Report) -> Markup:
    across = x_range(report)
    has_charts = any(part.charts or any(inner.charts for inner in part.parts) for part in report.parts)
    key = element("p", KEY, class_="key") if report.markers and has_charts else Markup()
    sections = (
        element("section", *part_of(part, report, across, 2), id=f"part-{n}") for n, part in enumerate(report.parts)
    )
    return element("main", key, *sections)


def x_range(report: Report) -> tuple[float, float]:
    """The x of all charts, so that one marker stands at the same place on each."""
    charts = [chart for part in report.parts for owner in (part, *part.parts) for chart in owner.charts]
    xs = [line.series.x for chart in charts for line in chart.lines if len(line.series)]
    ends = [float(end) for x in xs for end in (x[0], x[-1])]
    ends += [marker.x for marker in report.markers]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    low = 0.0 if low < 0.2 * high else low
    return low, high if high > low else low + 1.0


def part_of(part: Part, report: Report, across: tuple[float, float], level: int) -> Iterator[Markup]:
    badge = element("span", STATUS_WORDS[part.status], class_=f"badge {part.status}") if part.status else Markup()
    heading = element(f"h{level}", part.title, badge)
    content = join(
        *(element("p", line) for line in part.lines),
        *(tiles_of(table) for table in part.tables if table.are_tiles),
        element("div", *(table_of(t) for t in part.tables if not t.are_tiles), class_="tables"),
        charts_of(part.charts, report, across, level + 1) if part.charts else Markup(),
        element("div", *map(figure_of, part.pictures), class_="pictures") if part.pictures else Markup(),
        *(join(*part_of(inner, report, across, level + 1)) for inner in part.parts),
    )
    if part.is_long:
        yield heading
        yield element("details", element("summary", f"Show: {part.title.lower()}"), content)
    else:
        yield heading
        yield content


def charts_of(charts: Sequence[Chart], report: Report, across: tuple[float, float], level: int) -> Markup:
    cards = (
        element(
            "div",
            element(f"h{level}", chart.title, class_="chart-title"),
            drawn(chart, across, report.markers, report.x_label),
            legend(chart),
            class_="card",
        )
        for chart in charts
    )
    return element("div", *cards, class_="charts")


def tiles_of(table: Table) -> Markup:
    tiles = (element("div", element("dt", name), element("dd", value)) for name, value in table.rows)
    return element("dl", *tiles, class_="tiles")


def table_of(table: Table) -> Markup:
    rows, has_titles = [], any(table.columns)
    if has_titles:
        rows.append(element("tr", *(element("th", title, scope="col") for title in table.columns), class_="titles"))
    for first, *cells in table.rows:
        lead = cell_of(first, table.columns[0], "nowrap") if has_titles else element("th", first, scope="row")
        rows.append(element("tr", lead, *map(cell_of, cells, table.columns[1:])))
    css = {"class_": "titled"} if has_titles else {}
    return element("div", element("table", *rows, **css), tabindex=0, role="group", aria_label="table")


def cell_of(text: str, title: str, css: str = "") -> Markup:
    label = {"data_label": shortened(title, LABEL)} if title else {}
    return element("td", text, class_=css or ("nowrap" if len(text) <= SHORT else "long"), **label)


def figure_of(picture: Picture) -> Markup:
    caption = element("figcaption", picture.caption)
    if not picture.url:
        return element("figure", caption, class_="card")
    image = Markup(f'<img alt="{element("i", picture.caption)[3:-4]}" src="{picture.url}">')
    return element("figure", image, caption, class_="card")


def footer(report: Report) -> Markup:
    return element(
        "footer",
        element("p", f"bigrun {bigrun.version.__version__}; made on {clock(report.made)} from the run's files"),
    )
