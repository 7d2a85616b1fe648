"""`bigrun report` of run directories that are odd, hostile, huge or being changed: a report always comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st
from runs import event, make_run, rows_of

from bigrun import hookimpl
from bigrun.cli import main
from bigrun.links import read_bytes
from bigrun.record.record import RunRecord
from bigrun.run import Run
from bigrun.testing.runner import Runner, RunResult
from bigrun_report.drawing import Drawing
from bigrun_report.gather import found_pictures, gather
from bigrun_report.hardware import older_rows
from bigrun_report.page import page_of
from bigrun_report.texts import json_of, markdown_of

HUGE = 10**400
ODD_TIMES = ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59")


def report(*arguments: str | Path, code: int = 0) -> Result:
    done = CliRunner().invoke(main, ["report", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def all_formats(run: Path) -> tuple[str, str, str]:
    found = gather(RunRecord(run))
    texts = page_of(found), markdown_of(found), json_of(found)
    for text in texts:
        text.encode()
    json.loads(texts[2])
    return texts


# -- odd JSON --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time_utc", ODD_TIMES)
def test_numbers_and_times_that_nothing_can_hold(time_utc: str, tmp_path: Path) -> None:
    events = [
        event("anomaly", HUGE, "jump", "warning", anomaly=HUGE, action=HUGE),
        event("rolled-back", 5, "back", "warning", from_step=HUGE, to_step=[]) | {"time_utc": time_utc},
    ]
    telemetry = [{"step": HUGE, "gpu_power_watts": HUGE, "time_utc": time_utc}, {"step": 1, "gpu_power_watts": 1}]
    run = make_run(tmp_path / "run", [*rows_of(3), {"step": HUGE, "loss": HUGE}], events, telemetry)
    start = {"repositories": 5, "time_utc": time_utc, "step": HUGE, "command": HUGE, "packages": [], "hardware": HUGE}
    (run / "provenance.json").write_text(json.dumps({"starts": [start, start]}))
    (run / "report").mkdir()
    document = {"sections": [{"plugin": 1, "title": HUGE, "lines": [HUGE]}], "step": HUGE, "time_utc": time_utc}
    (run / "report" / "sections.json").write_text(json.dumps(document))
    assert "unknown" in all_formats(run)[0]


@pytest.mark.parametrize("value", [[], [1], [None], {}, {"a": 1}, "x", True])
def test_a_column_of_what_is_no_number_is_drawn_without_it(value: Any, tmp_path: Path) -> None:
    telemetry = [{"step": 10, "gpu_power_watts": value}, {"step": value, "gpu_power_watts": 1.0}]
    for number, rows in enumerate((telemetry, telemetry[:1], telemetry[1:])):
        all_formats(make_run(tmp_path / f"run-{number}", rows_of(3), telemetry=rows))
        all_formats(make_run(tmp_path / f"rows-{number}", [row | {"loss": value} for row in rows_of(3)]))


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([HUGE, -HUGE, *ODD_TIMES, "nan", "\ud800", "\x1b<b>", 1e308, float("nan"), float("inf"), ""])
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def odd(example: Any) -> st.SearchStrategy[Any]:
    """The example, with other things anywhere in it."""
    if isinstance(example, dict):
        whole = st.fixed_dictionaries({key: odd(value) for key, value in example.items()})
    elif isinstance(example, list):
        whole = st.tuples(*map(odd, example)).map(list)
    else:
        whole = st.just(example)
    return st.integers(0, 7).flatmap(lambda number: ODD if number == 0 else whole)


EVENT = event("anomaly", 20, "jump", "warning", anomaly="spike", action="roll-back", causes=["a"], advice=["b"])
STARTED = event("started", 0)
BACK = event("rolled-back", 20, "back", "warning", from_step=20, to_step=10, anomaly="spike", position=640)
TELEMETRY = {"step": 10, "time_utc": EVENT["time_utc"], "gpu_power_watts": 200.0, "process_rss_bytes": 2**30}
START = {
    "command": ["bigrun"], "time_utc": EVENT["time_utc"], "step": 0, "packages": {"torch": "2"}, "plugins": {"a": {}},
    "hardware": {"facts": {"name": "cpu"}, "device": "cpu", "memory_gib": 1, "driver": "x", "processes": 2},
    "data": {"files": 3, "sha256": "x"}, "repositories": [{"root": "/", "branch": "main", "commit": "x"}],
}  # fmt: skip
SECTION = {
    "plugin": "mine", "title": "A", "status": "ok", "lines": ["b"], "problems": [],
    "table": {"columns": ["a"], "rows": [["1"]]}, "pictures": [{"path": "x.png", "caption": "x"}],
    "curves": [{"title": "L", "metrics": ["loss"], "unit": "", "scale": "log",
                "band": {"steps": [1, 2], "low": [1, 1], "high": [2, 2]}}],
}  # fmt: skip
SECTIONS = {"sections": [SECTION], "pictures": {"a": "x.png"}, "step": 3, "time_utc": EVENT["time_utc"]}


@settings(max_examples=60, deadline=None)
@example(None, None, None, [None, TELEMETRY | {"step": -8.6e17}])  # no column of a screen is that far left
@given(odd([STARTED, EVENT, BACK]), odd({"starts": [START, START]}), odd(SECTIONS), odd([TELEMETRY, TELEMETRY]))
def test_whatever_the_files_say_all_three_formats_come_out(
    events: Any, provenance: Any, sections: Any, telemetry: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            events if isinstance(events, list) else [events],
            telemetry if isinstance(telemetry, list) else [telemetry],
        ]
        run = make_run(Path(folder) / "run", rows_of(3), *rows)
        (run / "provenance.json").write_text(json.dumps(provenance))
        (run / "report").mkdir()
        (run / "report" / "sections.json").write_text(json.dumps(sections))
        all_formats(run)


# -- where it goes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", [".", "checkpoints", "checkpoints/deep"])
def test_the_page_is_not_written_into_a_run_directory_unasked(
    below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", rows_of(3))
    other = make_run(tmp_path / "other", rows_of(3))
    (run / "checkpoints" / "deep").mkdir(parents=True)
    before = sorted(run.rglob("*"))
    monkeypatch.chdir(run / below)
    for asked in (Path(os.path.relpath(run)), other):
        done = report(asked, code=2)
        assert "is inside the run directory" in done.stderr
        assert "--out" in done.stderr
        assert sorted(run.rglob("*")) == before
    report(run, "--format", "md")
    report(run, "--out", tmp_path / "page.html")
    assert sorted(run.rglob("*")) == before


# -- what is large ---------------------------------------------------------------------------------------------


def test_of_much_telemetry_every_so_manieth_row_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", rows_of(3), telemetry=[{"step": 1000, "gpu_power_watts": 1}])
    (run / "telemetry").mkdir()
    rows = [{"step": step, "gpu_power_watts": float(step), "other": "x" * 50} for step in range(1000)]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    part = run / "telemetry" / "rows-until-20261101T000000.000000Z.jsonl"
    part.write_text(text)
    assert [row["step"] for row in older_rows(run)] == list(range(1000))
    assert older_rows(run)[0].keys() == {"step", "gpu_power_watts"}
    monkeypatch.setattr("bigrun_report.hardware.PARSED_BYTES", len(text) / 9.5)
    assert [row["step"] for row in older_rows(run)] == list(range(0, 1000, 10))
    monkeypatch.setattr("bigrun_report.hardware.LONGEST_LINE", 30)
    assert older_rows(run) == [], "lines that are too long"
    part.unlink()
    os.mkfifo(part)
    assert older_rows(run) == []


@pytest.mark.slow
def test_256_mib_of_telemetry_are_drawn_in_little_memory(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows_of(3))
    (run / "telemetry").mkdir()
    names = [f"column_{number}_fraction" for number in range(15)]
    line = json.dumps({"step": 1, "gpu_power_watts": 1.0} | dict.fromkeys(names, 0.123456789)) + "\n"
    for part in range(4):
        (run / "telemetry" / f"rows-until-2026110{part}T000000.000000Z.jsonl").write_text(
            line * (2**26 // len(line) - 1)
        )
    program = (
        "from bigrun.record.record import RunRecord; from bigrun_report.gather import gather; "
        f"from pathlib import Path; gather(RunRecord(Path({str(run)!r}))); "
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150_000, "KiB"


def test_what_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with holes: they take no disk."""
    run = make_run(tmp_path / "run", rows_of(3))
    (run / "report").mkdir()
    for name in ("provenance.json", "report/sections.json"):
        with (run / name).open("wb") as file:
            file.truncate(2**40)
    text = report(run, "--format", "md").stdout
    assert text.count("1,099,511,627,776 bytes, expected at most 67,108,864") == 2
    (run / "small").write_bytes(b"12345")
    assert read_bytes(run / "small", 5) == b"12345"
    with pytest.raises(OSError, match="5 bytes, expected at most 4"):
        read_bytes(run / "small", 4)


def test_a_picture_that_its_plugin_removes_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "here.png").write_bytes(b"")
    glob = Path.glob

    def and_gone(self: Path, pattern: str) -> Iterator[Path]:
        yield self / "gone.png"
        yield from glob(self, pattern)

    monkeypatch.setattr(Path, "glob", and_gone)
    assert [*found_pictures(tmp_path, ["maps"])] == ["maps/here.png"]


# -- plugins that answer what cannot be written down, and a process that hangs -----------------------------------


class Says:
    """A plugin whose section is what it is told."""

    observer = True

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    @hookimpl(optionalhook=True)
    def health_section(self) -> Any:
        return self.answer


def circular() -> dict[str, Any]:
    answer: dict[str, Any] = {"title": "A", "status": "ok", "lines": []}
    answer["lines"].append(answer)
    return answer


def deep() -> dict[str, Any]:
    nest: list[Any] = []
    for _ in range(100_000):
        nest = [nest]
    return {"title": "A", "status": "ok", "lines": [nest]}


@pytest.mark.parametrize(
    "answer",
    [circular(), deep(), {"title": "A", "status": "ok", "lines": [{(1, 2): 3}]}],
    ids=["circular", "deep", "key"],
)
def test_an_answer_that_cannot_be_written_down_silences_nobody(bigrunner: Runner, answer: Any) -> None:
    good = {"title": "Feet", "status": "ok", "lines": ["cold"]}
    result = bigrunner.run("health-report", companions=[Says(answer), Says(good)])
    result.assert_finished()
    assert result.quarantined == []
    kept = json.loads((result.directory / "report" / "sections.json").read_text())
    assert "Feet" in [section["title"] for section in kept["sections"]]
    assert [e for e in result.events if e.kind == "report-problem"]
    assert "cold" in (result.directory / "report" / "index.html").read_text()


class Hangs:
    """Ends the first step only when the page's process has hung for long enough."""

    observer = True

    def __init__(self) -> None:
        self.oom_score = ""

    @hookimpl
    def before_step(self, run: Run, step: int) -> None:
        drawing = run.plugins.active["health-report"]._drawing
        if step == 2:
            self.oom_score = Path(f"/proc/{drawing._process.pid}/oom_score_adj").read_text().strip()
            time.sleep(0.3)


def test_a_page_that_hangs_is_ended_and_said(bigrunner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigrun_report.plugin.MOST_SECONDS", 0.2)
    monkeypatch.setattr("bigrun_report.plugin.FIRST_SECONDS", 0.0)
    monkeypatch.setattr("bigrun_report.drawing.sys.executable", hanging(bigrunner.tmp_path))
    hangs = Hangs()
    result: RunResult = bigrunner.run("health-report", companions=[hangs], steps=3)
    result.assert_finished()
    (problem,) = [e.message for e in result.events if e.kind == "report-problem"]
    assert "was not drawn within" in problem
    assert hangs.oom_score == "1000"
    assert (result.directory / "report" / "index.html").exists()


def hanging(folder: Path) -> str:
    program = folder / "hangs.sh"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    return str(program)


def test_the_process_that_draws_is_the_first_to_end_when_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigrun_report.drawing.sys.executable", hanging(tmp_path))
    drawing = Drawing(tmp_path, tmp_path / "page.html")
    try:
        assert Path(f"/proc/{drawing._process.pid}/oom_score_adj").read_text().strip() == "1000"
    finally:
        drawing.close()
