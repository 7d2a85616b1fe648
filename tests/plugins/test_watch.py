"""bigrun watch and bigrun runs: a run on a terminal, from its files, of which none is touched."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st
from screens import Screen
from stories import TIMES, Story
from training import ENDLESS, Training

from bigrun import hookimpl
from bigrun.cli import main
from bigrun.lock import LOCK
from bigrun.record.verdict import verdict
from bigrun.testing.runner import Runner
from bigrun_watch.block import Block, fit
from bigrun_watch.frame import frame
from bigrun_watch.keys import named
from bigrun_watch.parts import metric_names, plain
from bigrun_watch.sections import read_sections
from bigrun_watch.sparkline import BLOCKS, sparkline

GIB = 2**30
HOSTILE = "\x1b]0;owned\x07\x1b[2J[red]markup[/red] \u202ereversed <script>alert(1)</script>\r\n\tnext"
HOT: dict[str, Any] = {
    "gpu_temperature_celsius": 91.0, "gpu_hotspot_celsius": 99.0, "gpu_power_watts": 280.0,
    "gpu_power_limit_watts": 450.0, "gpu_clock_mhz": 1740.0, "gpu_clock_max_mhz": 2700.0, "gpu_fan_fraction": 1.0,
    "gpu_busy_fraction": 0.99, "gpu_throttle": ["sw-thermal"], "gpu_memory_used_bytes": 21 * GIB,
    "gpu_memory_total_bytes": 24 * GIB, "torch_peak_bytes": 19 * GIB, "host_memory_available_bytes": 40 * GIB,
    "host_memory_total_bytes": 64 * GIB, "process_rss_bytes": 8 * GIB, "disk_free_bytes": 500 * GIB,
    "flags": ["THERMAL"], "activity": "step", "standstill_seconds": 0.5,
}  # fmt: skip


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A run of another machine, as a looker finds it: hot, with events, probes and health metrics."""
    story = Story(tmp_path / "runs" / "mine").held_elsewhere().started(ago_seconds=7000)
    terms = {"loss/dino": 4.0, "loss/ibot": 3.8, "loss/koleo": -0.1, "learning_rate": 2e-4}
    story.rows(10, 12_000, **terms).rows(12_010, 12_300, **terms, **{"probe/knn": 0.61, "health/rank_me": 210.0})
    story.rows(12_310, 12_310, a_new_one_of_a_plugin=3.25)
    story.flag("THERMAL", "began", "the GPU is at 91 °C; heat slowed it down in 40% of the last 5 minutes", 12_000)
    return story.telemetry(**HOT)


def watched(story: Story, width: int | None = None, height: int | None = None, **options: Any) -> str:
    return "\n".join(line.plain for line in frame(story.read(), width, height, **options))


def bigrun(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def traces(directory: Path) -> dict[str, tuple[Any, ...]]:
    """Of every name below: kind, size, both times of change, and what is in it."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted([directory, *directory.rglob("*")]):
        facts = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, content)
    return found


# -- one picture --------------------------------------------------------------------------------------------------


def test_a_picture_says_everything_that_a_person_looks_for(story: Story) -> None:
    text = watched(story)
    for wanted in (
        "look at this: THERMAL: the GPU is at 91 °C; heat slowed it down in 40%",
        "step 12,310 of 50,000  ███████░░░░░░░░░░░░░░░░░░░░░░░  25%  5 h 14 min left",
        "running: process 4711 on elsewhere", "787,840 images seen", "loss/koleo", "learning_rate", "0.0002",
        "images/s              128  ", "data wait, %            1  ", "2 steps/s, 128 images/s, 1% of it waiting",
        "GPU: 91 °C (hot spot 99), 280 of 450 W, 1740 MHz of 2700, fan 100%, busy 99%",
        "clock held down by: sw-thermal", "GPU memory: 22.5 GB of 25.8 GB", "flags: THERMAL", "disk 537 GB free",
        "step 12,000, telemetry-flag: THERMAL: the GPU", "probe/knn", "0.61", "health/rank_me", "210",
        "a_new_one_of_a_plugin", "3.25", "checkpoints (0)",
    ):  # fmt: skip
        assert wanted in text, f"{wanted!r} is not in\n{text}"


def test_what_is_not_known_is_not_shown_as_a_number(tmp_path: Path) -> None:
    text = watched(Story(tmp_path))
    assert "stopped: it has not begun" in text
    assert "no telemetry" in text
    assert "none yet" in text
    assert "nan" not in text
    assert "-1" not in text
    assert "°C" not in watched(Story(tmp_path).telemetry(cpu_busy_fraction=0.5))


def test_a_number_that_is_not_finite_keeps_its_last_value_and_is_marked(story: Story) -> None:
    story.rows(12_320, 12_320, loss="nan")
    (line,) = [line for line in frame(story.read(), 100, None) if line.plain.startswith("loss  ")]
    assert "7.877" in line.plain
    assert any("red" in str(span.style) for span in line.spans)


def test_old_telemetry_says_how_old_it_is(tmp_path: Path) -> None:
    assert "machine, 10 min ago" in watched(Story(tmp_path).telemetry(600, gpu_temperature_celsius=60.0))


def test_checkpoints_are_the_newest_first_with_their_condition(bigrunner: Runner) -> None:
    result = bigrunner.run("metrics-log", steps=3)
    result.damage(2, "student")
    shutil.rmtree(result.directory / "checkpoints" / "step-00000001")
    (result.directory / "checkpoints" / "step-00000002" / "state.json").unlink()
    text = bigrun("watch", str(result.directory)).output
    assert text.index("step-00000003: complete, ") < text.index("step-00000002: damaged, ")
    assert "state.json: is missing" in text
    assert "healthy: finished at step 3, loss " in text


def test_sections_of_the_health_report_count_and_a_damaged_file_of_them_does_not(story: Story) -> None:
    report = story.directory / "report"
    report.mkdir()
    failed = {"title": "Features", "status": "fail", "lines": ["rank 3"]}
    (report / "sections.json").write_text(json.dumps({"sections": [failed, 7]}))
    assert "- Features: rank 3" in watched(story)
    for damaged in ("", "[]", "{", '{"sections": 3}', "[" * 100_000):
        (report / "sections.json").write_text(damaged)
        assert read_sections(story.directory) == ()
        assert "Features" not in watched(story)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 260), st.integers(1, 90), st.integers(0, 20), st.booleans())
@example(80, 24, 0, True)
@example(200, 60, 0, True)
def test_no_line_is_longer_and_there_are_never_more(
    tmp_path_factory: Any, width: int, height: int, skipped: int, is_unicode: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fits"
    if not folder.exists():
        story = (
            Story(folder).held_elsewhere().started().rows(10, 300, **{HOSTILE * 9: 1.0, "日本語のとても長い名前": 2.0})
        )
        story.event("note", HOSTILE * 20, 10, "error").telemetry(**HOT | {"flags": [HOSTILE] * 3})
    lines = frame(Story(folder).read(), width, height, skipped=skipped, is_unicode=is_unicode)
    assert 1 <= len(lines) <= height
    assert all(line.cell_len <= width for line in lines)
    assert all("\n" not in line.plain and "\x1b" not in line.plain for line in lines)


def test_a_small_terminal_shows_a_line_of_everything_and_a_large_one_all(story: Story) -> None:
    for step in range(30):
        story.event("note", f"remark {step}", 12_300)
    small, large = watched(story, 80, 23), watched(story, 200, 59)
    for wanted in ("THERMAL", "left", "loss/dino", "images/s", "flags: THERMAL", "checkpoints", "remark 29"):
        assert wanted in small, f"{wanted}\n{small}"
    assert "remark 20" not in small
    for wanted in ("a_new_one_of_a_plugin", "host: ", "remark 10", "why, and what to try"):
        assert wanted in large, f"{wanted}\n{large}"


def test_every_metric_can_be_reached_in_a_small_terminal(story: Story) -> None:
    record = story.read()
    seen = "".join(watched(story, 80, 24, skipped=skipped) for skipped in range(len(record.names())))
    assert [name for name in metric_names(record) if name not in seen] == []
    assert set(record.names()) - set(metric_names(record)) == set(TIMES)  # in other words


def test_hostile_text_is_shown_and_obeyed_by_nobody(story: Story) -> None:
    story.event("note[bold]", HOSTILE, 12_310, "error")
    text = watched(story)
    assert "\\x1b]0;owned\\x07\\x1b[2J[red]markup[/red] \\u202ereversed <script>alert(1)</script> next" in text
    result = bigrun("watch", str(story.directory))
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert "\u202e" not in result.output


def test_a_long_headline_takes_three_lines_at_most(story: Story) -> None:
    story.anomaly("collapse", "word " * 200, 12_300)
    lines = [line.plain for line in frame(story.read(), 80, 24)]
    assert lines[2].endswith("…")
    assert lines[3].startswith("step 12,310 of 50,000")


# -- the parts ----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e308, 1e308), min_size=1, max_size=60), st.integers(1, 50))
def test_a_sparkline_has_its_width_and_touches_both_ends(values: list[float], width: int) -> None:
    line = sparkline(range(len(values)), values, width)
    assert len(line) == width
    is_wide = max(values) / 2 - min(values) / 2 >= 0.01 * max(map(abs, values))
    if len(values) == width and len(set(values)) > 1 and is_wide:
        assert BLOCKS[0] in line
        assert BLOCKS[-1] in line or max(values) / 2 - min(values) / 2 <= 0
    if len(set(values)) == 1:
        assert len(set(line)) == 1


def test_a_sparkline_rises_with_its_values_and_goes_on_where_there_are_none() -> None:
    assert sparkline(range(8), range(8), 8) == BLOCKS
    assert sparkline([0, 7], [0.0, 1.0], 8) == BLOCKS[0] * 7 + BLOCKS[-1]
    assert sparkline([], [], 8) == ""
    assert sparkline([5], [1.0], 3) == BLOCKS[3] * 3


def test_a_sparkline_of_what_hardly_changes_is_nearly_flat() -> None:
    near = sparkline(range(4), [100.0, 100.1, 99.9, 100.0], 4)
    assert {BLOCKS.index(character) for character in near} <= {3, 4}
    assert set(sparkline(range(2), [100.0, 103.0], 2)) == {BLOCKS[0], BLOCKS[-1]}


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), min_size=1, max_size=6), st.integers(0, 60)
)  # fmt: skip
def test_blocks_take_no_more_lines_than_there_are_and_none_is_wasted(sizes: list[Any], height: int) -> None:
    blocks = [Block("t", [plain(n) for n in range(count)], least) for count, least in sizes]
    fitted = fit(blocks, height)
    used = sum(1 + len(block.lines) for block in fitted)
    assert used <= height
    whole = sum(1 + len(block.lines) for block in blocks if block.lines)
    assert used == whole or len(fitted) == 0 or height - used < 2


def test_keys_have_names_and_noise_has_none() -> None:
    assert named("\x1b[A\x1b[Bq") == ["up", "down", "leave"]
    assert named("\x1b[99~x\x00") == []
    assert named("") == []


# -- in a terminal ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (200, 60)])
def test_a_terminal_is_filled_left_by_q_and_given_back(story: Story, columns: int, rows: int) -> None:
    before = traces(story.directory)
    with Screen(story.directory.parent, "watch", "mine", columns=columns, rows=rows) as screen:
        screen.wait_for("q leaves")
        assert screen.lines[0].startswith("look at this: THERMAL: the GPU is at 91 °C")
        assert screen.lines[rows - 1].startswith("q leaves")
        assert "loss/dino" in screen.text
        assert "█" in screen.text
        assert ("why, and what to try" in screen.text) == (columns == 200)
        screen.press("q")
        assert screen.end() == 0
        assert screen.modes == screen.before
        assert b"\n" not in screen.raw.partition(b"\x1b[?1049h")[2].partition(b"\x1b[?1049l")[0]  # nothing scrolls
        assert screen.raw.rindex(b"\x1b[?25h") > screen.raw.rindex(b"\x1b[?25l")  # the cursor is back
        assert screen.raw.rindex(b"\x1b[?1049l") > screen.raw.rindex(b"\x1b[?1049h")  # and what stood there
    assert traces(story.directory) == before


def test_a_terminal_that_is_resized_is_drawn_anew_and_keys_show_other_metrics(story: Story) -> None:
    with Screen(story.directory, "watch", ".", columns=80, rows=24) as screen:
        screen.wait_for("q leaves")
        assert "a_new_one_of_a_plugin" not in screen.text
        screen.press("\x1b[6~")
        screen.wait_for("metrics, from number 8 on")
        screen.press("\x1b[A")
        screen.wait_for("metrics, from number 7 on")
        assert "a_new_one_of_a_plugin" in screen.text
        screen.press("g")
        screen.resize(200, 60)
        screen.wait_for("why, and what to try")
        screen.wait_for(lambda: screen.lines[59].startswith("q leaves"))
        screen.press("\x03")  # Ctrl-C
        assert screen.end() == 0
        assert screen.modes == screen.before


def test_what_a_run_writes_comes_up_and_a_run_that_is_gone_is_said(story: Story) -> None:
    with Screen(story.directory, "watch", str(story.directory), "--interval-seconds", "0.1", columns=80, rows=24,
                NO_COLOR="1") as screen:  # fmt: skip
        screen.wait_for("step 12,310 of 50,000")
        story.rows(12_320, 20_000).event("note", HOSTILE, 20_000)
        screen.wait_for("step 20,000 of 50,000")
        screen.wait_for("[red]markup[/red]")
        assert b"owned\x07" not in screen.raw
        assert re.search(rb"\x1b\[[0-9;]*3[0-7]m", screen.raw) is None  # no colours
        shutil.rmtree(story.directory)
        screen.wait_for("cannot be read now: ")
        assert screen.lines[0].startswith("look at this: THERMAL")
        assert "step 20,000 of 50,000" in screen.text
        screen.process.send_signal(signal.SIGTERM)
        assert screen.end() == 0
        assert screen.modes == screen.before


@pytest.mark.parametrize(
    ("arguments", "environment", "has_colours"),
    [(["--once"], {}, True), (["--once"], {"NO_COLOR": "1"}, False), ([], {"TERM": "dumb"}, False)],
)
def test_once_and_a_dumb_terminal_print_one_picture_and_end(
    story: Story, arguments: list[str], environment: dict[str, str], has_colours: bool
) -> None:
    with Screen(story.directory, "watch", ".", *arguments, columns=100, rows=60, **environment) as screen:
        assert screen.end() == 0
        assert "look at this: THERMAL" in screen.text
        assert (b"\x1b[1;33m" in screen.raw) == has_colours
        assert b"\x1b[?1049h" not in screen.raw
        assert (b"\x1b" in screen.raw) == (environment.get("TERM") != "dumb")


def test_a_pipe_gets_plain_lines_and_one_without_unicode_letters_that_it_has(story: Story) -> None:
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:backslashreplace"}
    command = [sys.executable, "-m", "bigrun", "watch", str(story.directory)]
    done = subprocess.run(command, capture_output=True, check=True, env=environment, timeout=60)
    assert b"\x1b" not in done.stdout
    assert b"[" not in done.stdout.splitlines()[1]
    assert b"#######-----------------------" in done.stdout


# -- real runs that write -----------------------------------------------------------------------------------------


class Watches:
    """Dashboards of this run, in terminals of two sizes, while it takes its steps."""

    def __init__(self) -> None:
        self.screens: list[Screen] = []
        self.shown: list[int] = []

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 2:
            words = ("watch", str(run.directory), "--interval-seconds", "0.1")
            self.screens += [Screen(run.directory, *words, columns=c, rows=r) for c, r in ((80, 24), (200, 60))]
        for screen in self.screens:
            screen.wait_for(f"step {step - 1} of 12")
            self.shown.append(step)

    def end(self) -> list[int]:
        codes = []
        for screen in self.screens:
            with screen:
                screen.wait_for("healthy: finished at step 12")
                screen.press("q")
                codes.append(screen.end())
        return codes


def test_a_real_run_is_followed_while_it_writes(bigrunner: Runner) -> None:
    watches = Watches()
    result = bigrunner.run("metrics-log", steps=12, companions=[watches], run={"checkpoint_every_steps": 5})
    result.assert_finished()
    assert watches.end() == [0, 0]
    assert watches.shown[-1] == 12
    alone = bigrunner.run("metrics-log", steps=12, run={"checkpoint_every_steps": 5})
    assert result.losses == alone.losses
    assert sorted(p.name for p in result.directory.iterdir()) == sorted(p.name for p in alone.directory.iterdir())


@pytest.mark.slow
def test_a_run_in_another_process_keeps_its_lock_while_it_is_watched(tmp_path: Path) -> None:
    training = Training(tmp_path, **ENDLESS)
    with training.begun() as process:
        for columns, rows in ((80, 24), (200, 60)):
            with Screen(
                tmp_path, "watch", "runs/tiny", "--interval-seconds", "0.1", columns=columns, rows=rows
            ) as screen:
                screen.wait_for(f"running: process {process.pid} on ")
                first = screen.lines[:4]
                screen.wait_for(lambda first=first, screen=screen: screen.lines[:4] != first)
                second = training()
                assert second.returncode == 2
                assert f"is in use by process {process.pid}" in second.stderr
                screen.press("q")
                assert screen.end() == 0
        assert process.poll() is None
        assert bigrun("runs", str(tmp_path / "runs")).output.count("running") == 1


# -- bigrun runs --------------------------------------------------------------------------------------------------


def test_runs_are_listed_with_how_they_stand(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = story.directory.parent
    Story(runs / "deeper" / "done", max_steps=100).rows(10, 100).event("finished", "finished at step 100", 100)
    Story(runs / "dead").started().rows(10, 100)
    Story(runs / "bad").directory.joinpath("config.toml").write_text("[[[")
    Story(runs / ".hidden" / "x")
    (runs / "mine" / "checkpoints" / "step-00000010").mkdir(parents=True)
    (runs / "mine" / "checkpoints" / "step-00000010" / "config.toml").write_text("")
    (runs / "latest").symlink_to("mine")
    monkeypatch.chdir(runs.parent)
    before = traces(runs)
    table = bigrun("runs")
    assert table.exit_code == 0, table.output
    lines = {line.split()[0]: line for line in table.output.splitlines()}
    assert list(lines) == ["run", "runs/bad", "runs/dead", "runs/deeper/done", "runs/mine"]
    assert " died " in lines["runs/dead"]
    assert " unreadable " in lines["runs/bad"]
    assert "12,310  50,000  7.877  128 " in lines["runs/mine"]
    assert "look at this: THERMAL" in lines["runs/mine"]
    found = {row["run"]: row for row in json.loads(bigrun("runs", "--json").output)}
    assert found["runs/deeper/done"]["status"] == "finished"
    assert found["runs/deeper/done"]["level"] == "healthy"
    assert found["runs/mine"]["loss"] == pytest.approx(7.8769)
    assert found["runs/mine"]["seconds_left"] == pytest.approx(18_845)
    assert "loss" not in found["runs/bad"]
    assert [row["run"] for row in json.loads(bigrun("runs", "runs/dead", "--json").output)] == ["runs/dead"]
    assert traces(runs) == before


def test_a_folder_without_runs_and_one_that_is_not_there(tmp_path: Path) -> None:
    assert bigrun("runs", str(tmp_path)).output == f"no runs below {tmp_path}\n"
    assert bigrun("runs", str(tmp_path), "--json").output == "[]\n"
    missing = bigrun("runs", str(tmp_path / "nowhere"))
    assert missing.exit_code == 2
    assert "no such folder" in missing.output
    unknown = bigrun("watch", str(tmp_path))
    assert unknown.exit_code == 2
    assert "no run (there is no config.toml)" in unknown.output


@pytest.mark.parametrize("other", ["MANIFEST.json", "monitor.json"])
def test_a_checkpoint_and_what_was_measured_of_one_are_no_runs(story: Story, other: str) -> None:
    """They have a configuration all the same; nor is anything below them one."""
    folder = Story(story.directory.parent / "other" / "one").directory
    (folder / other).write_text("{}")
    Story(folder / "deeper")
    (row,) = json.loads(bigrun("runs", str(story.directory.parent), "--json").output)
    assert row["run"] == str(story.directory)


HUGE = "9" * 400
HARM = {
    "telemetry": ['{"standstill_seconds": Infinity, "activity": "data"}', f'{{"standstill_seconds": {HUGE}}}',
                  '{"standstill_seconds": 900, "activity": ["a"]}', '{"time_utc": "0001-01-01T00:00:00+23:59"}', "[1]"],
    "metrics": [f'{{"step": {HUGE}}}', '{"step": 20000, "loss": 1, "steps_per_second": 1e-320}',
                '{"step": 0, "loss": 1}', "[1]"],
    "events": [f'{{"kind": "anomaly", "step": 12000, "message": "x, since step {HUGE * 12}"}}',
               '{"kind": "started", "step": 12000, "message": "x", "time_utc": "0001-01-01T00:00:00+23:59"}', "[1]"],
}  # fmt: skip


@pytest.mark.parametrize(("log", "line"), [(log, line) for log, lines in HARM.items() for line in lines])
@pytest.mark.parametrize("is_dead", [True, False])
def test_one_odd_line_brings_nothing_down(story: Story, log: str, line: str, is_dead: bool) -> None:
    if is_dead:
        (story.directory / LOCK).unlink()
    with (story.directory / f"{log}.jsonl").open("a") as file:
        file.write(line + "\n")
    (row,) = json.loads(bigrun("runs", str(story.directory), "--json").output)
    assert row["status"] == ("died" if is_dead else "running")
    result = bigrun("watch", str(story.directory))
    assert result.exit_code == 0
    assert result.output.startswith(row["verdict"])


def test_a_run_that_cannot_be_understood_leaves_the_others_in_the_list(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(record: Any, sections: Any) -> Any:
        return 1 / 0 if record.directory.name == "odd" else verdict(record, sections)

    monkeypatch.setattr("bigrun_watch.row.verdict", fails)
    Story(story.directory.parent / "deep").directory.joinpath("config.toml").write_text(
        "a = " + "[" * 3000 + "]" * 3000
    )
    Story(story.directory.parent / "odd")
    rows = json.loads(bigrun("runs", str(story.directory.parent), "--json").output)
    assert [row["status"] for row in rows] == ["unreadable", "running", "unreadable"]
    assert rows[2]["verdict"] == "cannot be read: ZeroDivisionError: division by zero"


def test_a_hostile_name_of_a_run_is_inert(tmp_path: Path) -> None:
    Story(tmp_path / "a\x1b[31m\nb").event("error", HOSTILE, 3, "error", type=HOSTILE)
    result = bigrun("runs", str(tmp_path))
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert len(result.output.splitlines()) == 2
    (tmp_path / "a\x1b[31m\nb" / LOCK).symlink_to("/etc/passwd")
    assert bigrun("runs", str(tmp_path)).exit_code == 0
