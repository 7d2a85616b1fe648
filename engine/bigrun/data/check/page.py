"""A report as one page of HTML: no script, nothing from the network."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bigrun.data.check.picture import chart, thumbnail
from bigrun.directory import replace_file
from bigrun.errors import DataError, UsageError
from bigrun.markup import Markup, element, join, page
from bigrun.version import __version__

if TYPE_CHECKING:
    from bigrun.data.check.checking import Checked
    from bigrun.data.check.report import Report
    from bigrun.data.check.tally import Kind
    from bigrun.redaction import Redactor

__all__ = ["write_page"]

PICTURES = 48
"""In all, from as many data sets as there are."""
LISTED = 500
"""Bad images that a page names."""
URL = re.compile("(data:image/png;base64,[A-Za-z0-9+/=]+)")
STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c0392b; --good: #1e8449; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .25rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.refused { color: var(--bad); font-weight: 600; } .good { color: var(--good); font-weight: 600; }
.pictures { display: flex; flex-wrap: wrap; gap: .6rem; }
figure { margin: 0; width: 7rem; } figure img { image-rendering: pixelated; max-width: 96px; background: #000; }
figcaption { font-size: .72rem; line-height: 1.25; overflow-wrap: anywhere; }
svg { width: 30rem; max-width: 100%; fill: currentColor; } svg text { font-size: 11px; }
.path { overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: .85em; }
"""


def write_page(path: Path, checked: Checked, redactor: Redactor) -> None:
    """Write the page. Raises UsageError when the file cannot be written."""
    if path.is_dir():
        raise UsageError(f"--html {path}: that is a folder; expected a file, as {path / 'check.html'}")
    if not path.parent.is_dir():
        raise UsageError(f"--html {path}: there is no folder {path.parent}; make it, or choose another")
    text = page(f"Data check: {checked.report.source}", STYLE, body(checked))
    replace_file(path, "".join(redacted(text, redactor)).encode("utf-8"))


def redacted(text: str, redactor: Redactor) -> Iterator[str]:
    """The page without secrets; pictures are long, have none, and stay as they are."""
    for place, part in enumerate(URL.split(text)):
        yield part if place % 2 else redactor.text(part)


def body(checked: Checked) -> Markup:
    report = checked.report
    verdict = element("p", report.verdict(), class_="good" if report.may_start else "refused")
    parts = [element("h1", f"Data check: {report.source}"), verdict, element("p", summary(report))]
    parts += [element("h2", "Findings"), findings(report), element("h2", "Data sets"), kinds(report)]
    for kind in report.kinds:
        parts += [element("h3", f"Values: {kind.dataset}, {kind.dtype}"), chart(kind)]
    if report.division is not None:
        parts += [element("h2", "Split"), *(element("p", line) for line in report.division_lines())]
    parts += [element("h2", "Some images"), element("div", *pictures(checked), class_="pictures")]
    if report.bad:
        parts += [element("h2", "Images that cannot be used"), bad(report)]
    return element("body", *parts)


def summary(report: Report) -> str:
    return (
        f"{report.checked:,} of {report.images:,} images checked, {report.samples:,} samples; "
        f"root {report.root or 'none'}; bigrun {__version__}"
    )


def findings(report: Report) -> Markup:
    if not report.findings:
        return element("p", "None.")
    rows = (
        element("tr", element("td", "refused" if refuses else "note", class_="refused" if refuses else "note"),
                element("td", finding.kind), element("td", finding.message, class_="path"))
        for finding, refuses in report.findings
    )  # fmt: skip
    return element("table", *rows)


def kinds(report: Report) -> Markup:
    titles = element("tr", *(element("th", title) for title in report.titles()))
    rows = (
        element("tr", element("td", name), *(element("td", cell, class_="n") for cell in cells))
        for name, *cells in report.rows()
    )
    return element("table", titles, *rows)


def bad(report: Report) -> Markup:
    causes = ", ".join(f"{count:,} {cause}" for cause, count in Counter(entry[1] for entry in report.bad).most_common())
    rows = (
        element("tr", element("td", cause), element("td", path, class_="path"), element("td", message))
        for path, cause, message in report.bad[:LISTED]
    )
    more = len(report.bad) - LISTED
    note = element("p", f"and {more:,} more; --json has them all") if more > 0 else Markup()
    return join(element("p", causes), element("table", *rows), note)


def pictures(checked: Checked) -> Iterator[Markup]:
    """Thumbnails of images that were decoded, the same ones at every check; grey from the 1st to the 99th percentile
    of their data set."""
    images, tally = checked.images, checked.tally
    _, sets = images.sets()
    kinds = {(kind.dataset, kind.dtype): kind for kind in tally.rows()}
    bad_numbers = {seen.number for seen in tally.bad}
    for number in spread([*map(int, images.sample(PICTURES * len(tally.names)))], sets.tolist()):
        if number in bad_numbers:
            continue
        with contextlib.suppress(DataError):
            pixels = images[number].numpy()
            kind = kinds.get((tally.names[sets[number]], str(pixels.dtype)))
            if kind is not None:
                yield figure(thumbnail(pixels, *window(kind)), images.describe(number), pixels.shape)


def spread(numbers: Sequence[int], sets: Sequence[int]) -> list[int]:
    """At most PICTURES of the images, in turn from each data set."""
    turns: Counter[int] = Counter()
    placed = []
    for number in numbers:
        turns[sets[number]] += 1
        placed.append((turns[sets[number]], sets[number], number))
    return [number for _, _, number in sorted(sorted(placed)[:PICTURES], key=lambda entry: entry[1:])]


def window(kind: Kind) -> tuple[float, float]:
    return (0.0, 255.0) if kind.dtype == "uint8" else kind.range_of(1, 99)


def figure(url: str, name: str, shape: tuple[int, ...]) -> Markup:
    channels, height, width = shape
    caption = join(name, Markup("<br>"), f"{width}x{height}, {channels} ch")
    return element("figure", Markup(f'<img alt="" src="{url}">'), element("figcaption", caption))
