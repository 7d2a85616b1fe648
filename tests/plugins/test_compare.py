"""`bigrun compare`: several runs in one table and on one chart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from runs import event, make_run, rows_of

from bigrun.cli import main
from bigrun.record.record import RunRecord
from bigrun_report.comparison import Axis, compared


def compare(*arguments: str | Path, code: int = 0) -> Result:
    done = CliRunner().invoke(main, ["compare", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    fast = make_run(tmp_path / "fast", rows_of(50), [event("finished", 500)], max_steps=500)
    slow = [row | {"steps_per_second": 0.5, "probe/knn": 0.25} for row in rows_of(30)]
    return [fast, make_run(tmp_path / "slow", slow, lr=5e-4)]


def test_the_table_has_last_values_and_what_differs(runs: list[Path]) -> None:
    lines = compare(*runs).stdout.splitlines()
    words = [line.split() for line in lines]
    assert ["metric", "fast", "slow"] in words
    assert ["loss", "5.199", "5.199"] in words
    assert ["probe/knn", "0.25"] in words
    assert ["optimizer.base_lr", "0.001", "0.0005"] in words
    assert ["run.max_steps", "500", "1000"] in words
    assert not [line for line in lines if "effective_batch" in line]
    assert any(line.split()[:2] == ["fast", "finished"] for line in lines)


def test_only_the_metrics_that_were_asked_for(runs: list[Path]) -> None:
    text = compare(*runs, "--metric", "loss/*", "--metric", "probe/knn").stdout
    assert re.search(r"^  loss/ibot ", text, re.MULTILINE)
    assert not re.search(r"^  loss ", text, re.MULTILINE)
    done = compare(*runs, "--metric", "los", code=2)
    assert "--metric los: no run has it" in done.stderr
    assert "loss" in done.stderr


def test_one_run_is_not_enough(runs: list[Path]) -> None:
    assert "expected two runs or more" in compare(runs[0], code=2).stderr
    assert "no run" in compare(runs[0], runs[0] / "gone", code=2).stderr


@pytest.mark.parametrize(
    ("axis", "last_x"),
    [(Axis.STEP, [500, 300]), (Axis.IMAGES, [32_000, 19_200]), (Axis.HOURS, [250 / 3600, 600 / 3600])],
)
def test_the_axis(runs: list[Path], axis: Axis, last_x: list[float]) -> None:
    found = compared([RunRecord(run) for run in runs], axis, ["loss"])
    (curve,) = found.curves
    assert [line.label for line in curve.lines] == ["fast", "slow"]
    assert [float(line.series.x[-1]) for line in curve.lines] == pytest.approx(last_x)
    assert [float(line.series.values[-1]) for line in curve.lines] == [rows_of(50)[-1]["loss"], rows_of(30)[-1]["loss"]]


def test_the_page_has_all_runs_on_each_chart(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert compare(*runs, "--out", out, "--x", "hours").stdout.splitlines()[-1] == f"page: {out}"
    page = out.read_text(encoding="utf-8")
    assert page.count("hours of training</text>") == page.count('class="chart"') > 4
    (loss,) = re.findall(r'aria-label="loss; last: ([^"]*)"', page)
    assert loss == "fast 5.199, slow 5.199"
    assert "options that differ" in page.lower()


def test_a_run_has_one_colour_and_pattern_on_the_whole_page(runs: list[Path], tmp_path: Path) -> None:
    """Also where the first run has no such metric."""
    compare(*runs, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    drawn = re.findall(r'<path d="[^"]*" class="(line c\d)" stroke-dasharray="([^"]*)"><title>(\w+)</title>', page)
    assert {(name, css, dashes) for css, dashes, name in drawn} == {("fast", "line c0", ""), ("slow", "line c1", "7 3")}
    (alone,) = re.findall(r'aria-label="probe/knn; last: slow 0.25".*?</ul>', page, re.DOTALL)
    assert 'class="c1" stroke-dasharray="7 3"' in alone.partition('class="legend"')[2]
    done = CliRunner().invoke(main, ["report", str(runs[0]), "--compare", str(runs[1]), "--out", "-"])
    (alone,) = re.findall(r'aria-label="probe/knn; last: slow 0.25".*?</ul>', done.stdout, re.DOTALL)
    assert 'class="line c1"' in alone


def test_runs_of_the_same_name_and_without_a_step(runs: list[Path], tmp_path: Path) -> None:
    empty = make_run(tmp_path / "elsewhere" / "fast")
    text = compare(*runs, empty).stdout
    assert f"{tmp_path.name}/fast" in text
    assert "elsewhere/fast" in text
    twice = compare(runs[0], runs[0]).stdout
    assert "Options that differ" not in twice


def test_nothing_is_written_into_a_run(runs: list[Path], tmp_path: Path) -> None:
    def look() -> list[tuple[str, int]]:
        return [(str(path), path.lstat().st_mtime_ns) for run in runs for path in [run, *run.rglob("*")]]

    before = look()
    compare(*runs, "--out", tmp_path / "page.html")
    assert look() == before
