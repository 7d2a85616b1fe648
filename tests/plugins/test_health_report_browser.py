"""The page of health-report in a real Chromium."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, console, darkened, requests, resized
from click.testing import CliRunner
from PIL import Image, ImageStat
from runs import event, make_run, rows_of

from bigrun.cli import main

HOSTILE = '<script>document.title = "owned"</script><img src=x onerror="document.title = 1"><b>'
DRAWN = """
return [...document.querySelectorAll("svg.chart")].map(svg => [
    svg.querySelector("title").textContent,
    Math.max(0, ...[...svg.querySelectorAll("path.line")].map(path => path.getTotalLength())),
    svg.getBoundingClientRect().width])
"""
COLOURS = """
const of = name => getComputedStyle(document.querySelector(name));
return [of("body").backgroundColor, of("body").color, of(".card").backgroundColor]
"""
REFUSED = """
return new Promise(done => {
    document.addEventListener("securitypolicyviolation", event => done(event.effectiveDirective), {once: true});
    const added = document.createElement(arguments[0]);
    added.src = "http://127.0.0.1:9/x";
    document.body.append(added);
    setTimeout(() => done("not refused"), 3000);
})
"""
CONTRASTS = """
const rgb = colour => colour.match(/[\\d.]+/g).map(Number);
const light = colour => { const [r, g, b] = rgb(colour).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
const behind = element => { const colour = getComputedStyle(element).backgroundColor;
    return colour == "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : colour };
const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05) };
const texts = [...document.querySelectorAll("h1, h2, p, td, th, dt, dd, li, b, figcaption, .badge, a")];
const lines = [...document.querySelectorAll("path.line, .swatch line")];
return [Math.min(...texts.map(e => contrast(getComputedStyle(e).color, behind(e)))),
    Math.min(...lines.map(e => contrast(getComputedStyle(e).stroke, behind(e))))]
"""
CELLS = """
const inside = e => { const box = e.getBoundingClientRect(); return box.left >= 0 && box.right <= innerWidth };
const shown = [...document.querySelectorAll("table.titled td")].filter(cell => cell.checkVisibility());
return {inside: shown.every(inside), count: shown.length,
    cut: [...document.querySelectorAll(".tables > div")].filter(box => box.scrollWidth > box.clientWidth).length,
    titles: [...document.querySelectorAll("tr.titles")].filter(row => row.checkVisibility()).length,
    labels: [...new Set(shown.map(cell => getComputedStyle(cell, "::before").content != "none"))],
    alone: shown.filter(cell => cell.className == "long")
        .every(cell => cell.offsetWidth > 0.9 * cell.parentElement.offsetWidth),
    named: shown.every(cell => cell.dataset.label)}
"""
EDGE = """
const box = [...document.querySelectorAll(".tables > div")].find(b => b.scrollWidth > b.clientWidth + 40);
box.scrollLeft = arguments[0];
box.scrollIntoView();
const edge = box.getBoundingClientRect();
return [edge.right - 5, edge.top + 9]
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with something of everything."""
    place = tmp_path_factory.mktemp("page")
    events = [event("started", 0), event("anomaly", 300, HOSTILE, "warning", anomaly=HOSTILE, action="skip"),
              event("rolled-back", 500, "went back", "warning", from_step=500, to_step=400)]  # fmt: skip
    telemetry = [{"step": 10 * n, "gpu_temperature_celsius": 50 + n % 7, "process_rss_bytes": 2**30} for n in range(90)]
    names = {f"loss/{word}": 1.0 for word in ("a", "b", "c", "d", "e", "f", "g")}
    rows = [row | {HOSTILE: 1.0} | {name: value + n for n, (name, value) in enumerate(names.items())}
            for row in rows_of(90)]  # fmt: skip
    run = make_run(place / "run <script>", rows, events, telemetry)
    (run / "report").mkdir()
    Image.new("RGB", (900, 300), (200, 30, 30)).save(run / "report" / "wide <script>.png")
    long = "a-very-long-name-without-any-place-to-break-it" * 8
    sections = [
        {"plugin": HOSTILE, "title": HOSTILE, "status": "fail", "lines": [long],
         "table": {"columns": ["name", "value"] * 5, "rows": [[long, HOSTILE] * 5]},
         "curves": [{"title": "Expected", "metrics": ["loss"],
                     "band": {"steps": [0, 500, 1000], "low": [8, 5, 4], "high": [10, 7, 6]}}],
         "pictures": [{"path": "report/wide <script>.png", "caption": HOSTILE}]},
    ]  # fmt: skip
    (run / "report" / "sections.json").write_text(json.dumps({"sections": sections, "pictures": {}}))
    other = make_run(place / "other", rows_of(50))
    out = place / "page <b>.html"
    done = CliRunner().invoke(main, ["report", str(run), "--compare", str(other), "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


def test_the_page_is_drawn_quietly_and_fits_a_phone_and_the_dark(browser: Any, page: Path) -> None:
    resized(browser, 1280, 900)
    darkened(browser, "light")
    requests(browser)
    console(browser)
    browser.get(page.as_uri())
    assert console(browser) == []
    assert [url for url in requests(browser) if not url.startswith("data:")] == [page.as_uri()]
    text = page.read_text(encoding="utf-8")
    charts = browser.execute_script(DRAWN)
    assert len(charts) == text.count('class="chart"') > 15
    shown = [(title, length) for title, length, width in charts if width]
    assert len(shown) > 15
    assert all(length > 20 for _, length in shown), shown
    assert any(title.startswith("Expected") for title, _ in shown)
    assert browser.find_element("css selector", "h1").text.endswith(headline_of(text))
    for scheme, is_dark in (("light", False), ("dark", True)):
        darkened(browser, scheme)
        back, front, card = browser.execute_script(COLOURS)
        assert (brightness(back) < brightness(front)) == is_dark
        assert brightness(card) < 60 if is_dark else brightness(card) > 200
        texts, lines = browser.execute_script(CONTRASTS)
        assert texts >= 4.5, scheme
        assert lines >= 3, scheme
    for width in (1280, 768, 390, 320):
        resized(browser, width)
        wide, there = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert (wide, there) == (width, width)


@pytest.mark.parametrize("medium", ["screen", "print"])
def test_on_a_phone_each_row_is_a_block_whose_cells_say_what_they_are(browser: Any, page: Path, medium: str) -> None:
    browser.get(page.as_uri())
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium})
    for width in (600, 400, 320):
        resized(browser, width)
        found = browser.execute_script(CELLS)
        assert found["count"] > 50
        assert (found["inside"], found["named"], found["cut"], found["titles"]) == (True, True, 0, 0), (width, found)
        assert (found["labels"], found["alone"]) == ([True], True)
    resized(browser, 1280)
    found = browser.execute_script(CELLS)
    assert (found["titles"] > 3, found["labels"]) == (True, [False])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_that_scrolls_has_a_shadow_where_there_is_more(browser: Any, page: Path, scheme: str) -> None:
    resized(browser, 800)
    darkened(browser, scheme)
    browser.get(page.as_uri())
    shades = [shade_at(browser, *browser.execute_script(EDGE, left)) for left in (0, 1e6)]
    assert shades[0] < shades[1] - 5, shades


def shade_at(browser: Any, x: float, y: float) -> float:
    """The mean brightness of four px of what is shown."""
    with Image.open(io.BytesIO(browser.get_screenshot_as_png())) as picture:
        place = picture.convert("L").crop((int(x), int(y), int(x) + 2, int(y) + 2))
    return float(ImageStat.Stat(place).mean[0])


def test_what_is_hostile_stays_text(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    assert browser.execute_script("return document.scripts.length") == 0
    title = browser.title
    assert title.startswith("run <script>: ")
    assert browser.execute_script("return document.title") == title
    assert HOSTILE in browser.find_element("tag name", "body").text
    sources = browser.execute_script(
        "return [...document.images].map(i => [i.src.slice(0, 11), i.naturalWidth, i.alt])"
    )
    assert sources == [["data:image/", 900, HOSTILE]]


def test_the_browser_would_refuse_what_is_not_in_the_page(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    assert browser.execute_script(REFUSED, "script") == "script-src-elem"
    assert browser.execute_script(REFUSED, "img") == "img-src"
    console(browser)


def test_headings_are_in_order_and_everything_has_a_name(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    levels = browser.execute_script("return [...document.querySelectorAll('h1,h2,h3,h4,h5')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    unnamed = "return document.querySelectorAll('svg[role=img]:not([aria-label]), img:not([alt])').length"
    assert browser.execute_script(unnamed) == 0
    broken = "return [...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.hash)).length"
    assert browser.execute_script(broken) == 0


def test_it_prints(browser: Any, page: Path) -> None:
    resized(browser, 1280)
    browser.get(page.as_uri())
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    styles = "const of = name => getComputedStyle(document.querySelector(name));"
    shown = browser.execute_script(f"{styles} return [of('nav').display, of('body').backgroundColor]")
    assert shown == ["none", "rgb(255, 255, 255)"]
    assert browser.execute_cdp_cmd("Page.printToPDF", {})["data"].startswith("JVBER")  # %PDF


def headline_of(page: str) -> str:
    found = re.search("</span>([^<]*)</h1>", page)
    assert found is not None
    return html.unescape(found[1])


def brightness(colour: str) -> float:
    return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3
