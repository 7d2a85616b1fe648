"""`bigrun report`: from the files of a run, whatever they are like, and without touching them."""

from __future__ import annotations

import html
import json
import math
import os
import re
import subprocess
import sys
import time
import webbrowser
from collections.abc import Mapping
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import event, make_run, rows_of

from bigrun.cli import main
from bigrun.record.record import RunRecord
from bigrun.record.verdict import verdict
from bigrun_report.curves import Curves
from bigrun_report.gather import gather
from bigrun_report.page import page_of
from bigrun_report.scale import count_label, fitting, value_labels
from bigrun_report.series import Series, series_of
from bigrun_report.texts import markdown_of


def report(*arguments: str | Path, code: int = 0) -> Result:
    done = CliRunner().invoke(main, ["report", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def as_json(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report(run, "--format", "json").stdout)
    return found


def titles(found: Mapping[str, Any]) -> list[str]:
    return [part["title"] for part in found["parts"]]


def charts(found: Mapping[str, Any]) -> dict[str, Any]:
    return {chart["title"]: chart for part in found["parts"] for chart in part["charts"]}


def snapshot(directory: Path) -> dict[str, tuple[int, int, int]]:
    return {
        str(path): (status.st_mtime_ns, status.st_size, status.st_ino)
        for path in [directory, *directory.rglob("*")]
        for status in [path.lstat()]
    }


# -- where it goes ---------------------------------------------------------------------------------------------


def test_nothing_is_written_into_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "my run", rows_of(20), [event("started", 0)])
    before = snapshot(run)
    monkeypatch.chdir(tmp_path)
    done = report(run)
    assert (tmp_path / "report-my run.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert done.stdout.splitlines()[-1] == "report: report-my run.html"
    for form in ("md", "json"):
        assert report(run, "--format", form).stdout
    assert snapshot(run) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my run", "report-my run.html"]


def test_the_run_directory_of_here_gives_the_file_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "mine", rows_of(3))
    monkeypatch.chdir(tmp_path)
    report(run / "..", code=2)
    report("mine/../mine")
    assert (tmp_path / "report-mine.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-run"], "no run"),
        (["run", "--out", "nowhere/page.html"], "there is no folder nowhere"),
        (["run", "--out", "run"], "that is a folder"),
        (["run", "--out", "/proc/page.html"], "cannot be written"),
        (["run", "--open", "--format", "md"], "expected --format html"),
        (["run", "--open", "--out", "-"], "expected --format html"),
        (["run", "--compare", "no-such-run"], "no run"),
        (["run", "--format", "pdf"], "pdf"),
    ],
)
def test_bad_input_is_one_message(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "run", rows_of(3))
    monkeypatch.chdir(tmp_path)
    done = report(*arguments, code=2)
    assert said in done.stderr
    assert "Traceback" not in done.output


def test_open_shows_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    run = make_run(tmp_path / "run", rows_of(3))
    report(run, "--open", "--out", tmp_path / "a b.html")
    assert opened == [(tmp_path / "a b.html").as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert "no browser" in report(run, "--open", "--out", tmp_path / "a b.html").stderr


def test_only_what_browsers_raise_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Exception] = [webbrowser.Error("no runnable browser"), TypeError("a fault of ours")]

    def fail(url: str) -> bool:
        raise raised.pop(0)

    monkeypatch.setattr(webbrowser, "open", fail)
    run = make_run(tmp_path / "run", rows_of(3))
    said = report(run, "--open", "--out", tmp_path / "page.html").stderr
    assert "could be started here: Error: no runnable browser (see BROWSER); open " in said
    done = CliRunner().invoke(main, ["report", str(run), "--open", "--out", str(tmp_path / "page.html")])
    assert isinstance(done.exception, TypeError)


def open_with(browser: str, page: Path, run: Path) -> subprocess.CompletedProcess[str]:
    """`bigrun report --open` where no other browser can be found."""
    (page.parent / "nothing").mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.endswith("DISPLAY")}
    environment |= {"BROWSER": browser, "PATH": str(page.parent / "nothing")}
    command = [sys.executable, "-m", "bigrun", "report", str(run), "--open", "--out", str(page)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)


def program(path: Path, code: str) -> str:
    """An executable file."""
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    return str(path)


def test_open_starts_the_users_browser_with_the_whole_page(tmp_path: Path) -> None:
    """It reads what it is sent to, as a browser does, and writes that down."""
    code = f"import pathlib, sys, urllib.request\nseen = pathlib.Path({str(tmp_path / 'seen')!r})\n"
    code += "[page] = sys.argv[1:]\nseen.write_bytes(urllib.request.urlopen(page).read())"
    page = tmp_path / "a b %41 ü.html"
    done = open_with(program(tmp_path / "browser", code), page, make_run(tmp_path / "run", rows_of(3)))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"report: {page}\n")
    assert (tmp_path / "seen").read_bytes() == page.read_bytes() != b""


@pytest.mark.parametrize(
    ("browser", "why"),
    [
        ("", ""),
        (" ", ": IndexError: list index out of range"),
        ("/nowhere/browser", ""),
        ("false", ""),
        ("is 'not closed %s", ": ValueError: No closing quotation"),
    ],
)
def test_without_a_browser_the_page_is_there_and_one_line_says_where(browser: str, why: str, tmp_path: Path) -> None:
    if browser == "false":
        browser = program(tmp_path / "browser", "raise SystemExit(3)")
    page = tmp_path / "page.html"
    done = open_with(browser, page, make_run(tmp_path / "run", rows_of(3)))
    assert done.returncode == 0
    assert done.stderr == f"--open: no browser could be started here{why} (see BROWSER); open {page} yourself\n"
    assert done.stdout.endswith(f"report: {page}\n")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_no_torch_is_loaded(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows_of(3))
    command = [sys.executable, "-X", "importtime", "-m", "bigrun", "report", str(run), "--out", "-"]
    done = subprocess.run(command, capture_output=True, check=True, text=True, cwd=tmp_path)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "bigrun_report.page" in loaded
    assert "torch" not in loaded


# -- whatever there is -----------------------------------------------------------------------------------------


def test_a_run_without_a_step(tmp_path: Path) -> None:
    found = as_json(make_run(tmp_path / "run"))
    assert titles(found) == ["Progress", "Anomalies and actions", "Checkpoints", "Configuration and provenance"]
    assert "No step has been logged yet." in found["parts"][0]["lines"]
    assert "loss" not in found
    assert "<svg" not in report(tmp_path / "run", "--out", "-").stdout


def test_every_part_in_its_order(tmp_path: Path) -> None:
    rows = [row | {"class_spread": 0.9, "probe/knn": 0.5, "mine": 1.0} for row in rows_of(20)]
    telemetry = [
        {"time_utc": "2026-11-29T20:00:00+00:00", "step": step, "gpu_temperature_celsius": 60.0 + step,
         "process_rss_bytes": 2**30}
        for step in range(0, 200, 10)
    ]  # fmt: skip
    found = as_json(make_run(tmp_path / "run", rows, [event("started", 0)], telemetry))
    assert titles(found) == [
        "Progress", "Loss", "Learning rate and other schedules", "Throughput and waiting for data", "Memory",
        "Heat and power", "Anomalies and actions", "Features", "Other metrics", "Checkpoints",
        "Configuration and provenance",
    ]  # fmt: skip
    assert charts(found)["Memory of the host"]["lines"][0]["mean"] == [1.0] * 20
    assert charts(found)["Temperature"]["lines"][0]["last"] == 250
    assert "probe/knn" in charts(found)
    assert "mine" in charts(found)


def test_older_telemetry_comes_first_and_links_are_not_followed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows_of(3), telemetry=[{"step": 20, "gpu_power_watts": 200}])
    (run / "telemetry").mkdir()
    (run / "telemetry" / "rows-until-20261101T000000.000000Z.jsonl").write_text(
        '{"step": 10, "gpu_power_watts": 100}\nnoise\n'
    )
    (tmp_path / "else").write_text('{"step": 15, "gpu_power_watts": 999}\n')
    (run / "telemetry" / "rows-until-20261102T000000.000000Z.jsonl").symlink_to(tmp_path / "else")
    (line,) = charts(as_json(run))["Power"]["lines"]
    assert (line["x"], line["mean"]) == ([10, 20], [100, 200])


def test_numbers_that_are_none(tmp_path: Path) -> None:
    rows = rows_of(6)
    rows[1]["loss"], rows[2]["loss"], rows[3]["loss"] = "nan", "inf", 1e308
    rows[4]["loss"], rows[5]["grad_norm"] = [1], -5
    found = as_json(make_run(tmp_path / "run", rows))
    (line,) = charts(found)["Loss"]["lines"]
    assert line["x"] == [10, 40, 60]
    page = report(tmp_path / "run", "--out", "-").stdout
    assert page.count("loss: not finite") == 3
    assert not re.search(r'd="[^"]*(nan|inf)', page)


def test_a_run_that_is_still_writing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows_of(5))
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(whole + '{"step": 60, "loss": 0.')
    assert charts(as_json(run))["Loss"]["lines"][0]["x"] == [10, 20, 30, 40, 50]


def test_marks_for_what_happened(tmp_path: Path) -> None:
    events = [
        event("started", 0), event("checkpoint", 20),
        event("anomaly", 40, "jump", "warning", anomaly="spike", action="roll-back"),
        event("rolled-back", 40, "back", "warning", from_step=40, to_step=20), event("started", 20),
        event("finished", 50),
    ]  # fmt: skip
    found = as_json(make_run(tmp_path / "run", rows_of(5), events, max_steps=50))
    assert [(mark["x"], mark["kind"]) for mark in found["marks"]] == [
        (40, "anomaly"), (40, "rolled-back"), (20, "start")
    ]  # fmt: skip
    page = report(tmp_path / "run", "--out", "-").stdout
    assert page.count('class="mark anomaly"') == page.count('class="chart"') > 5
    assert "step 40: anomaly: jump" in page
    (part,) = [part for part in found["parts"] if part["title"] == "Anomalies and actions"]
    assert part["lines"] == ["anomalies: 1 x spike", "rolled back, 1 x: from step 40 to 20"]
    assert part["tables"][0]["rows"][3][3:] == ["spike", "roll-back", "jump"]


class Tags(HTMLParser):
    """The names of the elements and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_what_is_hostile_is_text(tmp_path: Path) -> None:
    bad = '<script>alert("x")</script><img src=http://evil.example/x onerror=alert(1)>\x1b[31m'
    run = make_run(
        tmp_path / "run <script>", [row | {bad: 1.0} for row in rows_of(3)],
        [event(bad, 1, bad, "error", anomaly=bad)],
    )  # fmt: skip
    (run / "checkpoints" / bad.replace("/", "_")[:200]).mkdir(parents=True)
    start = {"command": [bad], "preset": bad, "repositories": [{"branch": bad, "root": bad, "commit": bad}],
             "packages": {bad: bad}, "hardware": {"facts": {"name": bad}}}  # fmt: skip
    (run / "provenance.json").write_text(json.dumps({"starts": [start]}))
    (run / "report").mkdir()
    section = {
        "plugin": bad, "title": bad, "status": bad, "lines": [bad], "pictures": [{"path": bad, "caption": bad}],
        "table": {"columns": [bad], "rows": [[bad]]}, "curves": [{"title": bad, "metrics": [bad], "unit": bad}],
    }  # fmt: skip
    (run / "report" / "sections.json").write_text(json.dumps({"sections": [section], "pictures": {bad: bad}}))
    page = report(run, "--out", "-").stdout
    tags = Tags()
    tags.feed(page)
    assert not tags.names & {"script", "img", "iframe", "object", "link"}
    assert not [name for name in tags.attributes if name.startswith("on") or name in ("src", "style")]
    assert "\x1b" not in page
    assert page.count("&lt;script&gt;") > 10
    text = report(run, "--format", "md").stdout
    assert "\x1b" not in text
    assert not re.search(r"(?<!\\)<script", text)
    json.loads(report(run, "--format", "json").stdout)


@pytest.mark.parametrize("form", ["html", "md", "json"])
def test_secrets_that_stand_in_the_files_are_not_shown(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter2hunter2")
    events = [event("log-degraded", 1, "cannot open https://me:hunter2@host/x", "error")]
    run = make_run(tmp_path / "run", [row | {"hunter2hunter2": 1.0} for row in rows_of(3)], events)
    (run / "provenance.json").write_text(json.dumps({"starts": [{"command": ["x", "--token=hunter2hunter2"]}]}))
    text = report(run, "--format", form, "--out", "-").stdout
    assert "hunter2" not in text
    assert text.replace("\\", "").count("[redacted]") >= 3


def test_what_is_long_is_bounded(tmp_path: Path) -> None:
    events = [event("log-degraded", step, "x" * 5000, "error") for step in range(3000)]
    page = report(make_run(tmp_path / "run", rows_of(5), events), "--out", "-").stdout
    assert len(page) < 2_000_000


def test_a_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows_of(3))
    (tmp_path / "secret.json").write_text('{"starts": [{"preset": "secret"}]}')
    (run / "provenance.json").symlink_to(tmp_path / "secret.json")
    page = report(run, "--out", "-").stdout
    assert "provenance.json cannot be read" in page
    assert "secret" not in page


@pytest.mark.slow
def test_a_run_of_100_000_rows_is_drawn_quickly(tmp_path: Path) -> None:
    """What is measured is the drawing; reading 20 MB of JSON is the same for every view of a run."""
    record = RunRecord(make_run(tmp_path / "run", rows_of(100_000), max_steps=1_000_000))
    begun = time.process_time()
    page = page_of(gather(record))
    seconds = time.process_time() - begun
    assert seconds < 3
    assert len(page) < 2_000_000
    assert "1,000,000 of 1,000,000" in page


# -- curves ----------------------------------------------------------------------------------------------------

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**7), FINITE), min_size=1, max_size=300), st.integers(1, 50))
def test_thinning_keeps_the_extremes_of_every_column(points: list[tuple[int, float]], columns: int) -> None:
    series = Series.of([x for x, _ in points], [value for _, value in points])
    low, high = float(series.x.min()), float(series.x.max())
    thin = series.thinned(low, high, columns)
    assert len(thin.x) <= columns
    assert (np.diff(thin.x) > 0).all()
    assert thin.low.min() == series.values.min()
    assert thin.high.max() == series.values.max()
    assert ((thin.low <= thin.mean) & (thin.mean <= thin.high)).all()
    if thin.is_all:
        assert np.array_equal(thin.mean, series.values)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(), max_size=20), st.sampled_from(["linear", "log"]))
def test_a_scale_shows_every_value_and_has_round_ticks(values: list[float], kind: Any) -> None:
    scale = fitting(values, kind, 100.0, 0.0)
    assert math.isfinite(scale.low)
    assert scale.low < scale.high
    places = scale.places(np.array([value for value in values if math.isfinite(value)]))
    assert ((places >= 0) & (places <= 100)).all()
    assert all(scale.low - 1e-9 * abs(scale.low) <= tick <= scale.high * (1 + 1e-9) + 1e-9 or scale.high < 0
               for tick in scale.ticks(4))  # fmt: skip
    assert len(scale.ticks(4)) <= 12


def test_steps_that_were_repeated_are_in_order() -> None:
    rows = [{"step": 10, "a": 1}, {"step": 20, "a": 2}, {"step": 10, "a": 3}, {"step": None, "a": 4}, {"a": 5}]
    series = series_of(rows, "a")
    assert series.x.tolist() == [10, 10, 20]
    assert series.values.tolist() == [1, 3, 2]


def test_a_metric_is_drawn_once_by_the_report_itself() -> None:
    rows = [{"step": 1, "loss": 1.0, "loss/ibot": 2.0, "gram/weight": 3.0, "note": "text", "new": 4.0}]
    curves = Curves(rows)
    titles = [line.label for name in ("Loss", "Learning rate and other schedules", "Features")
              for chart in curves.part(name).charts for line in chart.lines]  # fmt: skip
    others = [chart.title for chart in curves.others().charts]
    assert sorted([*titles, *others]) == ["gram/weight", "loss", "loss/ibot", "new", "note"]


def test_labels_of_an_axis_differ() -> None:
    assert value_labels([100_000.25, 100_000.5]) == ["100000.2", "100000.5"]
    assert value_labels([0.0, 0.25, 0.5]) == ["0", "0.25", "0.5"]
    assert [count_label(count) for count in (0, 500, 2500, 20_000, 1_500_000)] == ["0", "500", "2,500", "20k", "1.5M"]


# -- the first line --------------------------------------------------------------------------------------------

FAULTS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any] | None, str]] = {
    "nothing": ({}, None, "healthy: "),
    "loader": ({"data_wait_fraction": 0.71}, None, "data wait"),
    "heat": (
        {},
        event("telemetry-flag", 390, "THERMAL: held down in 9 % of 5 minutes", "error", flag="THERMAL", state="began"),
        "THERMAL",
    ),
    "nan": (
        {"loss": "nan"},
        event("anomaly", 400, "loss_nan in step 400", "error", anomaly="nonfinite", action="skip", evidence={}),
        "loss_nan",
    ),
    "collapse": (
        {"class_spread": 0.0},
        event("anomaly", 400, "the class tokens are all alike", "error", anomaly="collapse", action="save"),
        "all alike",
    ),
    "entropy": (
        {"target_entropy_fraction": 1.0},
        event("anomaly", 400, "the targets stay at their wall", "error", anomaly="entropy-wall", action="save"),
        "at their wall",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_first_line_names_the_fault_and_is_the_verdict(fault: str, tmp_path: Path) -> None:
    changes, happened, word = FAULTS[fault]
    rows = rows_of(40)
    rows[20:] = [row | changes for row in rows[20:]]
    now = datetime.now(UTC).isoformat()
    events = [one | {"time_utc": now} for one in (event("started", 0), *([happened] if happened else []))]
    record = RunRecord(make_run(tmp_path / "run", rows, events), is_own=True)
    found = gather(record)
    assert found.headline == verdict(record).headline
    assert word in found.headline
    assert markdown_of(found).splitlines()[0].replace("\\", "") == found.headline
    first = page_of(found).partition("<h1>")[2].partition("</h1>")[0]
    assert html.unescape(re.sub("<[^>]*>", "", first)).endswith(found.headline)
