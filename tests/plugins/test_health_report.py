"""health-report: the page of a run, what plugins add to it, and that it harms nothing."""

from __future__ import annotations

import html
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from waits_for_page import WaitsForPage

from bigrun import hookimpl
from bigrun.anomaly import Anomaly
from bigrun.cli import main
from bigrun.errors import DataError
from bigrun.run import Run
from bigrun.testing.contract import PluginContract
from bigrun.testing.runner import Runner, RunResult


class TestContract(PluginContract):
    plugin = "health-report"


def page(result: RunResult) -> str:
    return (result.directory / "report" / "index.html").read_text(encoding="utf-8")


def kept(result: RunResult) -> Any:
    return json.loads((result.directory / "report" / "sections.json").read_text(encoding="utf-8"))


def problems(result: RunResult) -> list[str]:
    return [event.message for event in result.events if event.kind == "report-problem"]


def headline(run: Path) -> str:
    from bigrun.record.record import RunRecord
    from bigrun.record.verdict import verdict

    return verdict(RunRecord(run)).headline


class Says:
    """A plugin whose section is what it is told."""

    observer = True
    answer: Any = None

    @hookimpl(optionalhook=True)
    def health_section(self, run: Run) -> Any:
        return self.answer


def saying(answer: Any) -> Says:
    plugin = Says()
    plugin.answer = answer
    return plugin


GOOD = {
    "title": "Feet",
    "status": "warn",
    "lines": ["cold"],
    "table": {"columns": ["foot", "°C"], "rows": [["left", "12"]]},
    "curves": [{"title": "Loss again", "unit": "nat", "metrics": ["loss"], "scale": "log"}],
}


def test_a_section_is_kept_and_shown(bigrunner: Runner) -> None:
    result = bigrunner.run("health-report", "metrics-log", companions=[saying(GOOD)])
    result.assert_finished()
    (section,) = kept(result)["sections"]
    assert {key: section[key] for key in GOOD} == GOOD
    assert section["problems"] == []
    for text in ("Feet", "cold", "left", "Loss again", "nat, log scale"):
        assert text in page(result)
    assert not problems(result)


def test_at_the_end_it_is_said_where_the_page_is(bigrunner: Runner) -> None:
    result = bigrunner.run("health-report", steps=2)
    (event,) = [event for event in result.events if event.kind == "health-report"]
    assert Path(event.facts["path"]).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert event.facts["path"] in event.message


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (7, "expected a section as a mapping, got int"),
        ({"title": "", "status": "ok"}, "'title' expected a text"),
        ({"title": "A", "status": "fine"}, "'status' expected ok, warn, fail or none, got 'fine'"),
        ({"title": "A", "status": "ok", "lines": "abc"}, "'lines' expected a list, got str"),
        ({"title": "A", "status": "ok", "table": {"columns": ["a"], "rows": [[1, 2]]}}, "expected 1 cells"),
        ({"title": "A", "status": "ok", "table": []}, "expected columns and rows"),
        ({"title": "A", "status": "ok", "table": {"rows": [[]]}}, "'table.columns' expected one or more"),
        ({"title": "A", "status": "ok", "curves": [{"title": "x"}]}, "expected metrics, a list of names"),
        ({"title": "A", "status": "ok", "curves": [{"metrics": ["loss"], "scale": "ln"}]}, "expected linear or log"),
        (
            {"title": "A", "status": "ok", "curves": [{"metrics": ["loss"], "band": {"steps": [1], "low": [1]}}]},
            "band: expected steps, low and high",
        ),
        ({"title": "A", "status": "ok", "pictures": ["x.png"]}, "expected path and caption"),
        ({"title": "A", "status": "ok", "mood": 1}, "unknown: mood"),
    ],
)
def test_what_is_wrong_with_a_section_is_named_and_the_rest_is_shown(answer: Any, named: str) -> None:
    from bigrun_report.section import read_section

    section = read_section("mine", answer)
    assert len(section.problems) == 1
    assert section.problems[0].startswith("mine: ")
    assert named in section.problems[0]
    again = read_section("mine", json.loads(json.dumps(section.as_json())))
    assert (again.title, again.problems) == (section.title, section.problems)


def test_a_wrong_section_is_an_event_and_harms_no_other(bigrunner: Runner) -> None:
    class Raises(Says):
        observer = False  # an exception of a critical plugin comes back out of the hook

        @hookimpl(optionalhook=True)
        def health_section(self, run: Run) -> Any:
            raise ValueError("no feet")

    result = bigrunner.run("health-report", companions=[saying({"title": 3}), Raises(), saying(GOOD)])
    result.assert_finished()
    assert [section["title"] for section in kept(result)["sections"]].count("Feet") == 1
    assert "no feet" in page(result)
    assert len(problems(result)) == 3
    assert len([line for line in problems(result) if "no feet" in line]) == 1


def test_a_section_that_is_damaged_on_the_disk_is_said_and_breaks_nothing(bigrunner: Runner, tmp_path: Path) -> None:
    result = bigrunner.run("health-report", "metrics-log", companions=[saying(GOOD)])
    path = result.directory / "report" / "sections.json"
    for contents in (b"{", b"[]", b'{"sections": 3}', b'{"sections": [1, {"title": {}}]}', b"\xff"):
        path.write_bytes(contents)
        done = CliRunner().invoke(main, ["report", str(result.directory), "--format", "md"])
        assert done.exit_code == 0, done.output
        assert "sections.json" in done.stdout or "expected a section" in done.stdout


def test_the_newest_picture_of_a_series_is_in_the_page(bigrunner: Runner) -> None:
    class Draws:
        observer = True

        @hookimpl
        def after_step(self, run: Run, step: int) -> None:
            path = run.path_for("draws") / f"{step}.png"
            Image.new("RGB", (8, 8), (step, 0, 0)).save(path)
            run.picture("draws/photo.png", path)

    result = bigrunner.run("health-report", companions=[Draws()])
    result.assert_finished()
    assert kept(result)["pictures"] == {"draws/photo.png": "draws/3.png"}
    assert page(result).count("data:image/png;base64,") == 1


def test_pictures_outside_the_run_are_not_shown(bigrunner: Runner, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    result = bigrunner.run("health-report", "metrics-log")
    (result.directory / "links").symlink_to(tmp_path)
    (result.directory / "link.png").symlink_to(tmp_path / "secret.png")
    (result.directory / "none.png").write_bytes(b"no picture")
    outside = ["links/secret.png", "link.png", "../secret.png", str(tmp_path / "secret.png")]
    paths = [*outside, "none.png", "gone.png", "a\0"]
    answer = {"title": "A", "status": "ok", "pictures": [{"path": path, "caption": "c"} for path in paths]}
    document = {"sections": [{"plugin": "mine", **answer}], "pictures": {}}
    (result.directory / "report" / "sections.json").write_text(json.dumps(document))
    done = CliRunner().invoke(main, ["report", str(result.directory), "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "data:image" not in text
    assert text.count("not shown") == len(paths)


class Ill:
    """Reports an anomaly at its second step."""

    @hookimpl
    def before_update(self, run: Run, step: int) -> None:
        if step == 2:
            run.report_anomaly(Anomaly("spike", step, "the loss jumped"))


class NotFinite:
    """Makes the loss NaN from the second step on, until the run halts."""

    @hookimpl
    def loss_terms(self, run: Run, step: int) -> dict[str, torch.Tensor]:
        return {"bad": torch.tensor(float("nan") if step >= 2 else 0.0, requires_grad=True)}


@pytest.mark.parametrize("fault", [Ill, NotFinite])
def test_the_first_line_is_the_verdict(bigrunner: Runner, fault: type) -> None:
    result = bigrunner.run("health-report", "metrics-log", "console", companions=[fault()], steps=6)
    line = headline(result.directory)
    shown = html.unescape(page(result).partition("</span>")[2].partition("</h1>")[0])
    assert shown == line
    assert ("stopped" in line, "finite" in line) == ((True, True) if fault is NotFinite else (False, False))
    done = CliRunner().invoke(main, ["report", str(result.directory), "--format", "json"])
    assert json.loads(done.stdout)["headline"] == line
    assert json.loads(done.stdout)["marks"][0]["x"] == 2


def test_the_page_of_a_run_that_failed_says_so_first(bigrunner: Runner) -> None:
    class Fails:
        @hookimpl
        def after_step(self, run: Run, step: int) -> None:
            if step == 2:
                raise DataError("boom <b>")

    result = bigrunner.run("health-report", "metrics-log", companions=[Fails()])
    assert result.error is not None
    first = page(result).partition("<h1>")[2].partition("</h1>")[0]
    assert "stopped: " in first
    assert "boom &lt;b&gt;" in first


def test_after_an_anomaly_the_page_is_drawn_by_another_process_while_the_run_trains(bigrunner: Runner) -> None:
    seen: list[float] = []

    def look(run: Run, path: Path) -> None:
        seen.append(path.stat().st_mtime)
        text = path.read_text(encoding="utf-8")
        assert "spike" in text
        assert text.endswith("</html>")

    result = bigrunner.run("health-report", "metrics-log", companions=[Ill(), WaitsForPage(look)], steps=4)
    result.assert_finished()
    assert len(seen) == 1
    assert not problems(result)
    assert (result.directory / "report" / "index.html").stat().st_mtime > seen[0]


def test_a_page_that_cannot_be_drawn_is_an_event(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    class Waits:
        observer = True

        @hookimpl
        def before_step(self, run: Run, step: int) -> None:
            plugin = run.plugins.active["health-report"]
            until = time.monotonic() + 30
            while step == 3 and plugin._drawing.is_running and time.monotonic() < until:
                time.sleep(0.05)

    class Spoils:
        observer = True

        @hookimpl
        def on_start(self, run: Run) -> None:
            (run.path_for("report") / "index.html").mkdir()

        @hookimpl
        def on_finish(self, run: Run) -> None:
            (run.path_for("report") / "index.html").rmdir()

    result = bigrunner.run("health-report", companions=[Ill(), Spoils(), Waits()], steps=4)
    result.assert_finished()
    (problem,) = problems(result)
    assert "could not be drawn" in problem
    assert "that is a folder" in problem
    assert page(result)


def test_secrets_are_not_shown(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter2hunter2")
    answer = {"title": "hunter2hunter2", "status": "ok", "lines": ["password=abcdefgh"]}
    result = bigrunner.run("health-report", companions=[saying(answer)])
    for text in (page(result), json.dumps(kept(result))):
        assert "hunter2" not in text
        assert "abcdefgh" not in text
        assert "[redacted]" in text
