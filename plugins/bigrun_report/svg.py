"""A chart as inline SVG: no script; what the pointer rests on is told by titles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from bigrun.markup import Markup, element, join
from bigrun_report.figures import figure, shortened
from bigrun_report.parts import Chart, Marker
from bigrun_report.scale import LEAST_RANGE, Scale, count_label, fitting, value_labels
from bigrun_report.series import Numbers, Thinned

__all__ = ["COLOURS", "drawn", "legend"]

WIDTH, HEIGHT = 380, 212
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 24, 34
COLUMNS = WIDTH - LEFT - RIGHT
"""A curve has at most one point of its mean, its lowest and its highest value for each px."""
HOVERS = 30
"""Strips of a chart that tell the values there."""
COLOURS = 7
"""Of the palette by Okabe and Ito (https://jfly.uni-koeln.de/color/), which the colour-blind can tell apart."""
DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 2 2 2 2 2", "12 4", "1 4")
CROSS = "✕"
GLYPHS = {"anomaly": "▲", "rolled-back": "◄", "start": "│", "other": "◆"}
RANK = ("start", "other", "rolled-back", "anomaly")
SHARED_PX = 4.0
"""Markers that are nearer than this to each other are one."""
TOLD = 5
"""Of the markers of one place."""


def swatch(number: int) -> Markup:
    """How a line of a chart looks."""
    return element(
        "svg",
        element("line", x1=0, y1=5, x2=22, y2=5, class_=f"c{number % COLOURS}", stroke_dasharray=dashes(number)),
        viewBox="0 0 22 10", class_="swatch", aria_hidden="true",
    )  # fmt: skip


def drawn(chart: Chart, x_range: tuple[float, float], markers: Sequence[Marker], x_label: str) -> Markup:
    """The chart.

    Args:
        x_range: of all charts of the page, so that they have one axis.
    """
    across = Scale(*x_range, LEFT, WIDTH - RIGHT)
    thin = [line.series.thinned(*x_range, COLUMNS) for line in chart.lines]
    bands = [] if chart.band is None else [s.thinned(*x_range, COLUMNS) for s in (chart.band.low, chart.band.high)]
    ends = [value for t in (*thin, *bands) for part in (t.low, t.high) for value in part.tolist()]
    up = fitting(ends, chart.scale, HEIGHT - BOTTOM, TOP, least=0.0 if chart.fills else LEAST_RANGE)
    parts = [element("title", described(chart)), *grid(across, up, unit_of(chart, up), x_label)]
    if bands:
        parts += [shade(across.places(bands[0].x), up.places(bands[0].low), up.places(bands[1].high), "band",
                        "the band that is expected")]  # fmt: skip
    parts += [*spreads(chart, thin, across, up), *curves(chart, thin, across, up)]
    parts += [*not_finite(chart, across), *hovers(chart, x_range, across, x_label), *marks(markers, across)]
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", class_="chart", role="img",
                   aria_label=described(chart))  # fmt: skip


def described(chart: Chart) -> str:
    known = [(line.label, line.series.finite.values) for line in chart.lines]
    lasts = [f"{label} {figure(float(values[-1]))}" for label, values in known if len(values)]
    unit = f" ({chart.unit})" if chart.unit else ""
    return f"{chart.title}{unit}; last: {', '.join(lasts[:6]) or 'nothing finite'}"


def grid(across: Scale, up: Scale, unit: str, x_label: str) -> Iterator[Markup]:
    ticks = up.ticks(4)
    for tick, label in zip(ticks, value_labels(ticks), strict=True):
        y = f"{up.place(tick):.1f}"
        yield element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid")
        yield element("text", label, x=LEFT - 5, y=y, dy="0.32em", text_anchor="end")
    for tick in across.ticks(5):
        x = across.place(tick)
        yield element("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM + 4, class_="axis")
        anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
        yield element("text", count_label(tick), x=f"{x:.1f}", y=HEIGHT - BOTTOM + 15, text_anchor=anchor)
    yield element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM, class_="axis")
    yield element("text", x_label, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 4, text_anchor="middle", class_="label")
    yield element("text", unit, x=4, y=10, class_="label")


def unit_of(chart: Chart, up: Scale) -> str:
    """What stands above the axis: the unit, how it is bent, and the range of curves that it leaves flat."""
    words = [chart.unit, "log scale" if up.kind == "log" else ""]
    if up.widened is not None:
        words.append("from {} to {}".format(*value_labels(up.widened)))
    return ", ".join(filter(None, words))


def spreads(chart: Chart, thin: Sequence[Thinned], across: Scale, up: Scale) -> Iterator[Markup]:
    """From the lowest to the highest value, where a px has several."""
    for (number, _), t in zip(chart.styled, thin, strict=True):
        if not t.is_all:
            yield shade(across.places(t.x), up.places(t.low), up.places(t.high), f"spread f{number % COLOURS}",
                        "from the lowest to the highest value")  # fmt: skip


def shade(x: Numbers, low: Numbers, high: Numbers, css: str, title: str) -> Markup:
    points = [*zip(x.tolist(), high.tolist(), strict=True), *reversed([*zip(x.tolist(), low.tolist(), strict=True)])]
    return element("path", element("title", title), d=path(points) + "Z" if points else "", class_=css)


def curves(chart: Chart, thin: Sequence[Thinned], across: Scale, up: Scale) -> Iterator[Markup]:
    for (number, line), t in zip(chart.styled, thin, strict=True):
        points = [*zip(across.places(t.x).tolist(), up.places(t.mean).tolist(), strict=True)]
        if len(points) == 1:
            (x, y), css = points[0], f"dot f{number % COLOURS}"
            yield element("circle", element("title", line.label), cx=f"{x:.1f}", cy=f"{y:.1f}", r=3, class_=css)
        elif points:
            yield element("path", element("title", line.label), d=path(points), class_=f"line c{number % COLOURS}",
                          stroke_dasharray=dashes(number))  # fmt: skip


def path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""


def dashes(number: int) -> str:
    return DASHES[number // COLOURS * 3 % len(DASHES)] if number >= COLOURS else DASHES[number]


def not_finite(chart: Chart, across: Scale) -> Iterator[Markup]:
    """A cross at the top for each px where a value was none."""
    for number, line in chart.styled:
        bad = line.series.x[~np.isfinite(line.series.values)]
        for x in np.unique(across.places(bad).round()).tolist():
            title = element("title", f"{line.label}: not finite")
            yield element("text", title, CROSS, x=x, y=TOP + 5, text_anchor="middle", class_=f"bad f{number % COLOURS}")


def hovers(chart: Chart, x_range: tuple[float, float], across: Scale, x_label: str) -> Iterator[Markup]:
    """Strips that tell the mean values of their steps."""
    told: dict[int, list[str]] = defaultdict(list)
    places: dict[int, float] = {}
    for line in chart.lines:
        t = line.series.thinned(*x_range, HOVERS)
        strips = np.clip((across.places(t.x) - LEFT) / COLUMNS * HOVERS, 0, HOVERS - 1).astype(int)
        for strip, x, value in zip(strips.tolist(), t.x.tolist(), t.mean.tolist(), strict=True):
            told[strip].append(f"{line.label} {figure(value)}")
            places[strip] = x
    wide = COLUMNS / HOVERS
    for strip, texts in sorted(told.items()):
        title = "\n".join([f"{x_label} {places[strip]:,.5g}", *texts[:12]])
        yield element("rect", element("title", title), x=f"{LEFT + strip * wide:.1f}", y=TOP, width=f"{wide:.1f}",
                      height=HEIGHT - TOP - BOTTOM, class_="strip")  # fmt: skip


def marks(markers: Sequence[Marker], across: Scale) -> Iterator[Markup]:
    """A line, and a sign above it, for what happened at a place."""
    groups: dict[float, list[Marker]] = defaultdict(list)
    for marker in markers:
        groups[round(across.place(marker.x) / SHARED_PX) * SHARED_PX].append(marker)
    for x, group in sorted(groups.items()):
        kind = max((marker.kind for marker in group), key=RANK.index)
        more = [f"and {len(group) - TOLD:,} more"] if len(group) > TOLD else []
        title = "\n".join([*(shortened(marker.text, 200) for marker in group[:TOLD]), *more])
        yield element(
            "g",
            element("title", title),
            element("line", x1=x, x2=x, y1=TOP - 2, y2=HEIGHT - BOTTOM, class_="rule"),
            element("rect", x=x - 6, y=TOP - 14, width=12, height=14, class_="hit"),
            element("text", GLYPHS[kind], x=x, y=TOP - 4, text_anchor="middle"),
            class_=f"mark {kind}",
        )


def legend(chart: Chart) -> Markup:
    """Swatch, name and last value of each line."""
    items = []
    for number, line in chart.styled:
        last = line.series.finite
        value = figure(float(last.values[-1])) if len(last) else "not finite"
        items.append(element("li", swatch(number), join(line.label, " "), element("b", value)))
    if chart.band is not None:
        items.append(element("li", element("span", class_="swatch band-swatch"), "expected"))
    return element("ul", *items, class_="legend")
