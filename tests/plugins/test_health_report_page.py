"""What a page of health-report says unasked: how old it may be, what was not judged, what is nearly flat."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from runs import make_run
from waits_for_page import WaitsForPage

from bigrun.cli import main
from bigrun.run import Run
from bigrun.testing.runner import Runner
from bigrun_report.section import read_section

NOT_JUDGED = {"title": "Feet", "status": "none", "lines": ["nobody has looked"]}


def report(run: Path, *arguments: str) -> str:
    done = CliRunner().invoke(main, ["report", str(run), *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


# -- how old it may be -----------------------------------------------------------------------------------------


def test_a_page_of_a_running_run_says_until_when_it_is_not_old(
    bigrunner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigrun_report.plugin.FIRST_SECONDS", 0.0)
    seen: list[str] = []

    def look(run: Run, path: Path) -> None:
        command = [sys.executable, "-m", "bigrun", "report", str(run.directory), "--out", "-"]
        by_hand = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        seen.extend([path.read_text(encoding="utf-8"), by_hand])

    began = datetime.now(UTC)
    result = bigrunner.run(
        "health-report", "metrics-log", config={"every_minutes": 90.0}, companions=[WaitsForPage(look)], steps=4
    )
    result.assert_finished()
    drawn, on_demand = seen
    (due,) = re.findall(r'<p class="until">The next page is due by ([-0-9]+ [0-9:]+) UTC\.', drawn)
    late = datetime.fromisoformat(f"{due}+00:00") - began - timedelta(minutes=90)
    assert timedelta(minutes=1) <= late <= timedelta(minutes=4)
    assert f"bigrun watch {result.directory}" in drawn
    place = result.directory / "report" / "index.html"
    last = place.read_text(encoding="utf-8")
    report(result.directory, "--out", str(place))  # as the process that draws, when the run has ended meanwhile
    for page in (on_demand, last, place.read_text(encoding="utf-8")):
        assert "<h1>" in page
        assert "The next page" not in page


# -- what was not judged ---------------------------------------------------------------------------------------


def test_a_section_that_judged_nothing_has_a_badge_that_is_neither_good_nor_bad(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [{"step": 1, "loss": 1.0}])
    (run / "report").mkdir()
    section = read_section("mine", NOT_JUDGED)
    assert section.problems == ()
    (run / "report" / "sections.json").write_text(json.dumps({"sections": [section.as_json()], "pictures": {}}))
    assert '<h3>Feet<span class="badge none">- not judged</span></h3>' in report(run, "--out", "-")
    assert "### Feet (not judged)" in report(run, "--format", "md")
    found = json.loads(report(run, "--format", "json"))
    assert not [reason for reason in found["reasons"] if "Feet" in reason["text"]]


# -- titles ----------------------------------------------------------------------------------------------------


def test_different_numbers_have_different_titles(bigrunner: Runner) -> None:
    names = ("health-report", "metrics-log", "feature-health", "probes")
    result = bigrunner.run(*names, steps=2, objective={"koleo_weight": 0.1})
    result.assert_finished()
    page = (result.directory / "report" / "index.html").read_text(encoding="utf-8")
    charts = Counter(re.findall(r'class="chart-title">([^<]*)<', page))
    parts = Counter(re.findall(r"<h[23]>([^<]*)<", page))
    assert charts["KoLeo, of the step"] == charts["KoLeo, of the fixed images by the teacher"] == 1
    assert max(charts.values()) == max(parts.values()) == 1, (charts, parts)


# -- what is nearly flat ---------------------------------------------------------------------------------------


def height(page: str, title: str) -> float:
    """Of the curve of a chart, in px of some 150."""
    (chart,) = re.findall(rf'class="chart-title">{re.escape(title)}<.*?</ul>', page, re.DOTALL)
    (path,) = re.findall(r'<path d="([^"]*)" class="line', chart)
    ys = [float(point.split()[1]) for point in path[1:].split("L")]
    return max(ys) - min(ys)


@pytest.mark.parametrize(
    ("title", "name", "value", "low", "high"),
    [
        ("Spread of class tokens, of the step", "class_spread", lambda share: 1 - 2e-5 * share, 0, 1),
        ("Loss", "loss", lambda share: -5 - 0.05 * share, 60, 90),  # 1 %: half of the height
        ("Loss", "loss", lambda share: 5 - 0.15 * share, 120, 160),
        ("Loss", "loss", lambda share: 5e-9 * share, 120, 160),
        ("Momentum of the teacher", "teacher_momentum", lambda share: 0.999 + 0.001 * share, 120, 160),
    ],
)
def test_a_small_change_looks_small_but_for_schedules(
    tmp_path: Path, title: str, name: str, value: Callable[[float], float], low: float, high: float
) -> None:
    rows: list[dict[str, Any]] = [{"step": step, name: value(step / 100)} for step in range(1, 101)]
    page = report(make_run(tmp_path / "run", rows), "--out", "-")
    assert low <= height(page, title) <= high
    assert ("from 0.99998 to 1<" in page) == (name == "class_spread")
