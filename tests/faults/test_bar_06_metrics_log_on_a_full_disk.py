"""Bar 6: the log on a full disk. Training goes on; rows wait in memory and are written once there is room, in their
order; no half line stands in the file; the run says when that begins, when it is over, and what is lost at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from acting import Acting, events
from disks import file_size_limit, fill, small_disk
from training import Training

from bigrun import hookimpl
from bigrun.testing.runner import Runner, RunResult
from bigrun.throughput import TIMINGS

RARE = {"checkpoint_every_steps": 1000}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", megabytes=12) as path:
        yield path


class Wide:
    """Rows of 20 kB, and whether the files have whole lines at every step."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    @hookimpl
    def before_update(self, run: Any, step: int) -> None:
        for number in range(500):
            run.metrics.record(f"wide/{number:020d}", float(step))

    @hookimpl
    def after_step(self, run: Any) -> None:
        self.seen.append(len(rows(run.directory)))
        rows(run.directory, "events.jsonl")


def rows(directory: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Every line, each of which is JSON and has an end."""
    path = directory / name
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    assert text == "" or text.endswith("\n"), "half a line"
    return [json.loads(line) for line in text.splitlines()]


def assert_complete(result: RunResult) -> None:
    """Every row is in the file, once, in order, bit for bit."""
    written = [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows(result.directory)]
    assert written == result.metrics


def test_bar_06_rows_wait_for_room_and_training_goes_on(bigrunner: Runner, disk: Path) -> None:
    wide = Wide()
    acting = Acting({3: lambda: fill(disk), 9: lambda: (disk / "of-somebody-else").unlink()})
    run = {**RARE, "max_steps": 12}
    result = bigrunner.run("metrics-log", directory=disk / "run", run=run, companions=[wide, acting])
    result.assert_finished()
    assert_complete(result)
    assert wide.seen[2:8] == [2] * 6, "nothing was written to the full disk"
    (degraded,) = [e for e in events(result, "log-degraded") if "metrics.jsonl" in e.message]
    assert (degraded.step, degraded.level) == (3, "error")
    assert "No space left on device" in degraded.message
    (recovered,) = [e for e in events(result, "log-recovered") if "metrics.jsonl" in e.message]
    assert recovered.step == 9
    assert events(result, "log-incomplete") == []
    kinds = [row["kind"] for row in rows(result.directory, "events.jsonl")]
    assert kinds.index("log-degraded") < kinds.index("log-recovered") < kinds.index("finished")


def test_bar_06_events_wait_for_room_too(bigrunner: Runner, disk: Path) -> None:
    """Saves fail meanwhile, and what is said of them is written later."""
    acting = Acting({3: lambda: fill(disk), 6: lambda: (disk / "of-somebody-else").unlink()})
    result = bigrunner.run("metrics-log", directory=disk / "run", steps=8, companions=[Wide(), acting])
    result.assert_finished()
    assert_complete(result)
    story = rows(result.directory, "events.jsonl")
    failed = [row["facts"]["failed_step"] for row in story if row["kind"] == "checkpoint-failed"]
    assert failed == [3, 4, 5]
    assert [row["step"] for row in story if row["kind"] == "checkpoint"] == [1, 2, 6, 7, 8]


def test_bar_06_what_is_lost_at_the_end_is_said(bigrunner: Runner, tmp_path: Path) -> None:
    """Checkpoints have room, the log has none: EFBIG beyond 400 kB."""
    run = {**RARE, "max_steps": 30}
    with file_size_limit(400_000):
        result = bigrunner.run("metrics-log", directory=tmp_path / "run", run=run, companions=[Wide()])
    result.assert_finished()
    written = len(rows(result.directory))
    assert 10 < written < 30
    (event,) = events(result, "log-incomplete")
    assert f"metrics.jsonl: the last {30 - written} lines could not be written and are lost" in event.message
    assert event.level == "error"
    story = [row["kind"] for row in rows(result.directory, "events.jsonl")]
    assert story[-2:] == ["finished", "log-incomplete"]
    again = bigrunner.run("metrics-log", directory=tmp_path / "run", run={**run, "max_steps": 32})
    assert [row["step"] for row in rows(again.directory)] == [*range(1, written + 1), 31, 32]


def test_bar_06_a_run_resumes_on_a_full_disk(bigrunner: Runner, disk: Path) -> None:
    """To cut the rows behind the checkpoint takes no room."""
    straight = bigrunner.run("metrics-log", steps=4, directory=disk / "run")
    rows_before = rows(disk / "run")
    (disk / "run" / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows_before, rows_before[-1] | {"step": 5}]) + '{"step": 6, "lo'
    )
    acting = Acting({5: lambda: (disk / "of-somebody-else").unlink(missing_ok=True)})

    class Full:
        @hookimpl(tryfirst=True)
        def header_lines(self) -> list[str]:
            fill(disk)
            return []

    resumed = bigrunner.run("metrics-log", steps=6, directory=disk / "run", companions=[Full(), acting])
    resumed.assert_finished()
    assert [row["step"] for row in rows(disk / "run")] == [1, 2, 3, 4, 5, 6]
    assert straight.checkpoints == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_bar_06_the_command(tmp_path: Path, disk: Path) -> None:
    tables: Mapping[str, Any] = {"run": {"max_steps": 300, "checkpoint_every_steps": 1000}}
    training = Training(tmp_path, **tables)
    training.run = disk / "run"
    with training.begun("--run-dir", str(training.run), step=5) as process:
        other = fill(disk)
        lines: list[str] = []
        assert process.stdout is not None
        while not any("metrics.jsonl cannot be written (No space left on device)" in line for line in lines):
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        other.unlink()
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "warning: " in output
    assert "metrics.jsonl is written again, with what was kept meanwhile" in output
    assert [row["step"] for row in rows(training.run)] == list(range(1, 301))
