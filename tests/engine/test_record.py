"""What a run directory says to somebody who looks: files that grow, are cut, replaced and damaged; how a run stands."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stories import Story, utc
from training import ENDLESS, Training, merge

from bigrun import hookimpl
from bigrun.errors import UsageError
from bigrun.lock import LOCK, RunLock, holder
from bigrun.record import record as record_module
from bigrun.record.pace import number, pace_of
from bigrun.record.record import RunRecord
from bigrun.record.status import epoch_seconds
from bigrun.record.tail import Tail
from bigrun.record.verdict import verdict
from bigrun.record.words import duration
from bigrun.testing.runner import Runner


def lines(*steps: int) -> str:
    return "".join(json.dumps({"step": step}) + "\n" for step in steps)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def steps_of(tail: Tail) -> list[int]:
    return [row["step"] for row in tail.read()]


# -- the tail of a file -------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_yet_has_no_rows_and_then_has_them(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    assert steps_of(tail) == []
    assert tail.changed_at is None
    tail.path.write_text(lines(1, 2))
    assert steps_of(tail) == [1, 2]
    assert tail.changed_at == pytest.approx(time.time(), abs=60)
    tail.path.unlink()
    assert steps_of(tail) == []


def test_only_what_came_since_is_read_and_a_line_counts_when_it_is_whole(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    tail.path.write_text(lines(1) + '{"step"')
    assert steps_of(tail) == [1]
    before = tail.rows[0]
    with tail.path.open("a") as file:
        file.write(": 2}\n" + lines(3))
    assert steps_of(tail) == [1, 2, 3]
    assert tail.rows[0] is before


def test_rows_that_a_resumed_run_has_cut_are_gone(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    tail.path.write_text(lines(1, 2, 3, 4))
    tail.read()
    with tail.path.open("r+") as file:
        file.truncate(len(lines(1, 2)))
    assert steps_of(tail) == [1, 2]


def test_rows_that_were_cut_and_written_anew_to_more_than_before_are_noticed(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log")
    tail.path.write_text("".join(f'{{"step": {step}, "t": 1}}\n' for step in range(9)))
    tail.read()
    with tail.path.open("r+") as file:
        file.truncate(len('{"step": 0, "t": 1}\n') * 2)
        file.seek(0, os.SEEK_END)
        file.write("".join(f'{{"step": {step}, "t": 2}}\n' for step in range(2, 12)))
    assert [row["t"] for row in tail.read()] == [1, 1] + [2] * 10


def test_a_file_that_was_replaced_is_read_from_its_beginning(tmp_path: Path) -> None:
    """Also where its end is as before: `metrics.jsonl` is, when there was noise between its rows."""
    tail, same = Tail(tmp_path / "log"), range(100, 150)
    tail.path.write_text(lines(1, *same))
    tail.read()
    (tmp_path / "new").write_text(lines(2, *same, 7))
    (tmp_path / "new").replace(tail.path)
    assert steps_of(tail) == [2, *same, 7]


def test_damaged_lines_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    deep = "[" * 100_000
    path.write_bytes(lines(1).encode() + f"\x00\xff\n[]\nnull\n{deep}\n\n".encode("latin-1") + lines(2).encode())
    tail = Tail(path)
    assert steps_of(tail) == [1, 2]
    assert tail.damaged == 5
    tail.read()
    assert tail.damaged == 5


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log"
    (tmp_path / "secret").write_text(lines(1))
    {"link": lambda: path.symlink_to("secret"), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    opened = open_files()
    with pytest.raises(OSError, match=r"symbolic|kind of thing"):
        Tail(path).read()
    assert open_files() == opened


def test_a_hundred_thousand_rows_are_read_once_and_kept_in_bounds(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "log", most=10_000)
    with tail.path.open("w") as file:
        file.writelines(f'{{"step": {step}, "loss": {step / 7}, "learning_rate": 1e-4}}\n' for step in range(100_000))
    began = time.process_time()
    tail.read()
    first = time.process_time() - began
    kept = [row["step"] for row in tail.rows]
    assert len(kept) <= 10_000
    assert kept == sorted(kept)
    assert kept[0] == 0  # the course from the beginning on
    assert kept[-5000:] == list(range(95_000, 100_000))  # the newest in full
    assert all(b - a <= 64 for a, b in pairwise(kept))
    with tail.path.open("a") as file:
        file.write(lines(100_000))
    began = time.process_time()
    tail.read()
    assert time.process_time() - began < max(first / 20, 0.005)
    assert tail.rows[-1]["step"] == 100_000


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_is_done_to_a_file_its_rows_are_those_in_it(tmp_path_factory: Any, data: st.DataObject) -> None:
    """Appended in parts, cut and replaced; every row is another, as rows with times are."""
    tail = Tail(tmp_path_factory.mktemp("tail") / "log")
    tail.path.touch()
    serial = 0
    for _ in range(data.draw(st.integers(1, 8))):
        text = tail.path.read_bytes()
        what = data.draw(st.sampled_from(["append", "cut", "replace", "nothing"]))
        new = b"".join(b'{"n": %d}\n' % (serial + n) for n in range(data.draw(st.integers(0, 5))))
        serial += 5
        if what == "append":
            tail.path.write_bytes(text + new[: data.draw(st.integers(0, len(new)))] if not text else text + new)
        elif what == "cut":
            with tail.path.open("r+b") as file:
                file.truncate(data.draw(st.integers(0, len(text))))
                file.seek(0, os.SEEK_END)
                file.write(b"\n" + new)
        elif what == "replace":
            (tail.path.parent / "new").write_bytes(new)
            (tail.path.parent / "new").replace(tail.path)
        assert tail.read() == Tail(tail.path).read()


# -- pace ---------------------------------------------------------------------------------------------------------


def row(step: int, rate: float, **values: Any) -> dict[str, Any]:
    return {"step": step, "steps_per_second": rate, **values}


def test_the_pace_is_that_of_the_newest_rows_and_not_of_the_whole_run() -> None:
    rows = [row(10 * n, 10.0, data_wait_fraction=0.0) for n in range(1, 1000)]
    rows += [row(9990 + 10 * n, 0.1, data_wait_fraction=0.5) for n in range(1, 31)]  # 100 s each
    pace = pace_of(rows)
    assert pace.steps_per_second == pytest.approx(0.1)
    assert pace.data_wait_fraction == pytest.approx(0.5)
    assert pace.rows == 20


def test_the_first_row_of_a_process_does_not_count_unless_it_is_all_there_is() -> None:
    rows = [row(10, 5.0), row(20, 0.01), row(30, 2.0), row(40, 2.0)]
    assert pace_of(rows, after_step=10).steps_per_second == pytest.approx(2.0)
    assert pace_of(rows[:2], after_step=10).steps_per_second == pytest.approx(0.01)
    assert pace_of(rows[:1], after_step=10).steps_per_second is None
    assert pace_of([]).steps_per_second is None


@pytest.mark.parametrize("rate", [1e-320, 1e300, -1.0, 10**400, math.inf])
def test_a_speed_that_nobody_has_measured_is_none(rate: Any) -> None:
    pace = pace_of([row(10, 2.0), row(20, rate, images_per_second=64.0), row(30, 2.0, images_per_second=1e308)])
    assert pace.steps_per_second == pytest.approx(2.0)
    assert pace.images_per_second == pytest.approx(1e308)
    assert pace_of([row(10, 2.0), row(20, rate)]).steps_per_second is None


def test_a_mean_that_rounds_up_to_infinity_is_not_known() -> None:
    most = {"images_per_second": sys.float_info.max}
    pace = pace_of([row(10, 1.0), row(20, 2.302506217464817, **most), row(30, 2.527631926750511, **most)])
    assert pace.rows == 2
    assert pace.images_per_second is None


def test_rows_without_a_speed_are_passed_over() -> None:
    """All of their steps were skipped; or they are damaged."""
    rows = [row(10, 2.0), row(20, 0.0), row(30, 2.0), {"step": 40}, {"step": 50, "steps_per_second": "nan"}]
    assert pace_of(rows).steps_per_second == pytest.approx(2.0)


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0.01, 100)), min_size=2, max_size=40))
def test_the_pace_is_steps_over_time(parts: list[tuple[int, float]]) -> None:
    step, rows = 0, []
    for steps, rate in parts:
        step += steps
        rows.append(row(step, rate))
    pace = pace_of(rows)
    newest = parts[1:][-pace.rows :]
    seconds = sum(steps / rate for steps, rate in newest)
    assert pace.steps_per_second == pytest.approx(sum(steps for steps, _ in newest) / seconds)
    assert min(r for _, r in parts) * 0.999 <= (pace.steps_per_second or 0) <= max(r for _, r in parts) * 1.001


@pytest.mark.parametrize("value", ["nan", None, True, [], math.nan, math.inf, 10**400, {}])
def test_what_is_no_finite_number_is_not_known(value: Any) -> None:
    assert number({"loss": value}, "loss") is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(math.inf, "over 1,000 years"), (math.nan, "over 1,000 years"), (10**400, "over 1,000 years"),
     (0, "0 s"), (-3, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (90, "1 min 30 s"), (754, "12 min"), (3600, "1 h"),
     (3661, "1 h 1 min"), (187_200, "2 d 4 h"), (86_400, "1 d")],
)  # fmt: skip
def test_durations_are_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# -- the record ---------------------------------------------------------------------------------------------------


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run \(there is no config.toml\)"):
        RunRecord(tmp_path)


@pytest.mark.parametrize("harm", ["link", "no toml", "not text", "link to the log", "deep"])
def test_a_run_that_cannot_be_read_is_one_message(tmp_path: Path, harm: str) -> None:
    Story(tmp_path)
    config = tmp_path / "config.toml"
    if harm == "link":
        config.rename(tmp_path / "other")
        config.symlink_to("other")
    elif harm == "link to the log":
        (tmp_path / "events.jsonl").symlink_to("config.toml")
    else:
        deep = b"a = " + b"[" * 3000 + b"]" * 3000
        config.write_bytes({"no toml": b"[[[", "not text": b"\xff\xfe", "deep": deep}[harm])
    with pytest.raises(UsageError, match="cannot be read"):
        RunRecord(tmp_path)


def test_an_empty_run_knows_nothing_and_says_so(tmp_path: Path) -> None:
    record = Story(tmp_path).read()
    unknown = (record.seconds_left, record.row_age_seconds, record.telemetry_age_seconds, record.silent_seconds)
    assert set(unknown) == {None}
    assert record.checkpoint_age_seconds is None
    assert (record.step, record.images_seen, record.checkpoints(), record.names()) == (0, 0, [], [])
    assert record.newest("loss") is None
    assert record.curve("loss") == ([], [])
    assert record.status.state == "not begun"


def test_numbers_ages_and_the_time_that_is_left(tmp_path: Path) -> None:
    story = Story(tmp_path).held_elsewhere().started(ago_seconds=5000)
    story.event("checkpoint", "saved the checkpoint of step 9000", 9000, ago_seconds=600)
    record = story.rows(10, 10_000, ago_seconds=30).telemetry(ago_seconds=7, gpu_power_watts=400.0).read()
    assert record.step == 10_000
    assert record.images_seen == 640_000
    assert record.seconds_left == pytest.approx(20_000)
    assert record.row_age_seconds == pytest.approx(30, abs=2)
    assert record.telemetry_age_seconds == pytest.approx(7, abs=2)
    assert record.silent_seconds == pytest.approx(7, abs=2)
    assert record.checkpoint_age_seconds == pytest.approx(600, abs=2)
    assert record.newest("loss") == pytest.approx(7.9)
    assert record.option("run", "log_every_steps") == 10
    assert [event["step"] for event in record.events_of("checkpoint")] == [9000]


def test_a_metric_that_is_rare_has_its_curve_and_a_long_one_is_thinned(tmp_path: Path) -> None:
    story = Story(tmp_path).rows(10, 500).rows(510, 510, **{"probe/knn": 0.4}).rows(520, 1000, loss="nan")
    record = story.read()
    assert record.curve("probe/knn") == ([510], [0.4])
    assert "probe/knn" in record.names()
    assert record.newest("probe/knn") == 0.4
    steps, values = record.curve("loss", most=10)
    assert len(steps) <= 10
    assert all(map(math.isfinite, values))
    assert record.curve("steps_per_second", most=7)[0][-1] == 1000


def test_images_of_steps_that_were_taken_back_have_been_seen(tmp_path: Path) -> None:
    story = Story(tmp_path).started().rows(10, 500)
    story.event("rolled-back", "back to step-00000400", 500, from_step=500, to_step=400, position=500 * 64)
    path = story.directory / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:40]))  # as the run cuts it
    record = story.started(400).rows(410, 420).read()
    assert record.step == 420
    assert record.images_seen == 520 * 64


def test_hostile_rows_do_no_harm(tmp_path: Path) -> None:
    story = Story(tmp_path, max_steps="many").started()
    bad = [
        {"step": "x"},
        {"step": -1},
        {"step": True},
        {"step": 2**53},
        {"step": 10**400},
        {"kind": 3, "message": "", "step": 1},
        {"kind": "a", "step": 1},
    ]
    for name in ("events", "metrics"):
        with (tmp_path / f"{name}.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in bad)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "a", "message": "b", "step": 1, "facts": 7}) + "\n")
        file.write(json.dumps({"kind": "stopped", "message": "b", "step": 1}) + "\n")
    record = story.read()
    assert record.max_steps is None
    assert record.status.state == "stopped"
    assert record.damaged_lines == 13
    (tmp_path / "config.toml").write_text("run = 3\ndata = []\n")
    record.refresh()
    assert record.max_steps is None
    assert record.images_seen is None


@pytest.mark.parametrize("value", [2**53, 10**400, -1, True, 2.0, "3"])
def test_an_option_that_is_no_count_is_none(tmp_path: Path, value: Any) -> None:
    path = Story(tmp_path).rows(10, 100).directory / "config.toml"
    path.write_text(f"[run]\nmax_steps = {json.dumps(value)}\n[data]\neffective_batch = {json.dumps(value)}\n")
    record = RunRecord(tmp_path)
    assert (record.max_steps, record.images_seen, record.seconds_left) == (None, None, None)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "1969-12-31", 7, ["a"]])
def test_a_time_at_which_no_run_was_written_is_none(moment: Any) -> None:
    assert epoch_seconds(moment) is None
    assert epoch_seconds("1970-01-01T01:00:00+01:00") == 0.0


def test_one_reading_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(name: str) -> None:
        inner = getattr(record_module, name)
        monkeypatch.setattr(record_module, name, lambda *a, **k: asked.append(name) or inner(*a, **k))

    counted("pace_of")
    counted("status_of")
    story = Story(tmp_path).held_elsewhere().started().rows(10, 200)
    record = story.read()
    for _ in range(3):
        verdict(record)
        assert record.names() == ["data_wait_fraction", "images_per_second", "loss", "steps_per_second"]
    assert sorted(asked) == ["pace_of", "status_of"]
    story.rows(210, 300, later=1.0).event("stopped", "stopped", 300, reason="enough")
    (tmp_path / LOCK).unlink()
    record.refresh()
    assert (record.step, record.status.state, record.pace.rows) == (300, "stopped", 29)
    assert "later" in record.names()


# -- how it stands ------------------------------------------------------------------------------------------------


def test_a_story_is_told_by_its_last_word(tmp_path: Path) -> None:
    story = Story(tmp_path).started(ago_seconds=100).rows(10, 100)
    assert story.read().status.state == "died"
    story.event("stopped", "stopped after step 100: SIGTERM", 100, reason="SIGTERM")
    assert (story.read().status.state, story.read().status.reason) == ("stopped", "SIGTERM")
    story.started(100).event("error", "the disk\nis gone", 150, "error", type="OSError")
    assert str(story.read().status) == "failed: OSError: the disk"
    story.started(100).event("error", "halted at step 170: loss", 170, "error", type="TrainingHalted")
    assert story.read().status.state == "halted"
    story.started(100).event("finished", "finished at step 50000", 50_000)
    assert story.read().status.state == "finished"
    assert story.read().seconds_left is None


def test_without_a_log_of_events_rows_and_the_lock_tell(tmp_path: Path) -> None:
    assert Story(tmp_path, max_steps=100).rows(10, 90).read().status.state == "died"
    assert Story(tmp_path, max_steps=90).read().status.state == "finished"
    assert Story(tmp_path, max_steps=100).held_elsewhere().read().status.state == "running"


def test_a_process_that_was_started_after_the_end_of_another_runs(tmp_path: Path) -> None:
    """It loads, and has said nothing yet; but one that is at its end still holds the lock."""
    story = Story(tmp_path).started(ago_seconds=1000).event("stopped", "stopped", 10, ago_seconds=500, reason="enough")
    story.held_elsewhere()  # since 11 days
    assert story.read().status.state == "stopped"
    (tmp_path / LOCK).write_text(json.dumps({"host": "elsewhere", "pid": 1, "started_utc": utc(100)}))
    assert story.read().status.state == "running"


@pytest.mark.parametrize(("silent_seconds", "runs"), [(3, True), (40, True), (-40, True), (90, False)])
def test_a_run_of_another_host_is_known_by_its_heartbeat(tmp_path: Path, silent_seconds: float, runs: bool) -> None:
    """Also by one whose clock is half a minute before or behind ours."""
    record = Story(tmp_path).started().held_elsewhere(silent_seconds).read()
    assert record.status.is_running == runs
    assert (record.owner is not None and record.owner.host == "elsewhere") == runs


HOLDS = """
import fcntl, os, sys, time
fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX)
print(flush=True)
time.sleep(60)
"""


def test_a_lock_without_a_name_yet_is_held_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / LOCK
    path.touch()
    assert holder(tmp_path) is None
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        owner = holder(tmp_path)
        process.kill()
    assert owner is not None
    assert (owner.host, owner.pid) == (socket.gethostname(), process.pid)
    assert holder(tmp_path) is None


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "nothing"])
def test_a_lock_that_is_none_is_held_by_nobody(tmp_path: Path, kind: str) -> None:
    path = tmp_path / LOCK
    (tmp_path / "file").touch()
    {"link": lambda: path.symlink_to("file"), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}.get(kind, int)()
    assert holder(tmp_path) is None


# -- real runs ----------------------------------------------------------------------------------------------------


HELD = 9
ASKS = f"""
import fcntl, os, sys
try:
    fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit({HELD})
"""
"""Another process that would take the lock."""


class Looker:
    """Reads the run from inside its process, as a report does, after every step and at the end."""

    def __init__(self) -> None:
        self.record: RunRecord | None = None
        self.seen: list[tuple[int, str, bool]] = []

    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        self._look(run)

    @hookimpl(trylast=True)
    def on_finish(self, run: Any) -> None:
        self._look(run)

    def _look(self, run: Any) -> None:
        self.record = self.record or RunRecord(run.directory, is_own=True)
        self.record.refresh()
        asked = subprocess.run([sys.executable, "-I", "-S", "-c", ASKS, str(run.directory / LOCK)], check=False)
        self.seen.append((self.record.step, self.record.status.state, asked.returncode == HELD))


def test_a_run_reads_its_own_record_and_keeps_its_lock(bigrunner: Runner) -> None:
    looker = Looker()
    bigrunner.run("metrics-log", steps=3, companions=[looker]).assert_finished()
    assert [held for _, _, held in looker.seen] == [True] * 4
    assert [state for _, state, _ in looker.seen] == ["running"] * 3 + ["finished"]
    assert looker.seen[-1][0] == 3


@pytest.mark.slow
def test_a_run_that_writes_is_followed_until_it_is_killed_and_resumed(tmp_path: Path) -> None:
    training = Training(tmp_path, **merge(ENDLESS, {"run": {"checkpoint_every_steps": 50}}))
    with training.begun(step=60) as process:
        record = RunRecord(training.run)
        assert record.status.is_running
        assert record.owner is not None
        assert record.owner.pid == process.pid
        before = record.step
        deadline = time.monotonic() + 60
        while record.step < before + 20 and time.monotonic() < deadline:
            record.refresh()
        assert [row["step"] for row in record.metrics] == list(range(1, record.step + 1))
        assert record.seconds_left is not None
        process.kill()
        process.wait()
        record.refresh()
        assert record.status.state == "died"
    saved = max(entry.step or 0 for entry in record.checkpoints())
    training.configure(**merge(ENDLESS, {"run": {"max_steps": saved + 2}}))
    done = training()
    assert done.returncode == 0, done.stderr
    record.refresh()
    assert record.status.state == "finished"
    assert [row["step"] for row in record.metrics] == list(range(1, saved + 3))
    assert record.damaged_lines == 0
    lock = RunLock(training.run)
    lock.acquire()
    lock.release()
