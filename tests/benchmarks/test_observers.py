"""`observers.py` puts runs with and without each observer side by side. What it measures is never asserted."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_benchmarks import assert_header, run, tables
from worker import Answer, WorkerError

import observers  # isort: skip - a script of the benchmarks


@pytest.mark.slow
def test_observers_has_a_row_for_each_and_one_for_all_of_them() -> None:
    lines = run("observers.py", "--quick", "--only", "metrics-log", "feature-health")
    assert_header(lines)
    (ways,) = tables(lines)
    assert list(ways) == ["without", "without, again", "feature-health", "metrics-log", "all of a usual run"]
    assert ways["all of a usual run"][-1] == "<= 2"
    assert lines[-1] == "losses of 3 rows: bit-identical"


@pytest.mark.slow
def test_what_cannot_be_used_is_left_out_with_the_reason(tmp_path: Path) -> None:
    with observers.Ways("tiny", tmp_path) as ways:
        ways.open(["no-such-observer"])
        measured = ways.rounds(1)
        reports = ways.close()
    assert list(reports) == list(measured) == [observers.WITHOUT, observers.AGAIN]
    assert ways.left_out["no-such-observer"].startswith("plugins.no-such-observer: no such plugin")


def test_shares_are_of_a_step_without_observers() -> None:
    def answers(*seconds: float) -> list[Answer]:
        return [Answer(each, each, 1) for each in seconds]

    report = {"hook_seconds": 0.03, "plugins": ["some"], "every_steps": [50]}
    plain = {"hook_seconds": 0.0, "plugins": [], "every_steps": []}
    measured = {observers.WITHOUT: answers(1.0, 2.0, 4.0), "some": answers(1.01, 2.02, 4.04)}
    table = observers.cost_table(measured, {observers.WITHOUT: plain, "some": report}, {"without": 7.0, "some": 3.0})
    row = next(line for line in table.splitlines() if line.startswith("some"))
    assert row.split() == ["some", *["+1.00", "(+1.00", "to", "+1.00)"] * 2, "1.00", "50"]


def test_reasons_are_one_line() -> None:
    said = "x ended with exit code 2:\nbenchmark: 1 problem\n  plugins.x: needs y\n"
    assert observers.reason(WorkerError(said)) == "plugins.x: needs y"
    assert observers.reason(WorkerError("x ended with exit code 1:\nTraceback\nValueError: no\n")) == "ValueError: no"


def test_only_observers_can_be_asked_for() -> None:
    assert observers.observers(["telemetry"]) == ["telemetry"]
    with pytest.raises(SystemExit, match="no such observer: anomaly-guard"):
        observers.observers(["anomaly-guard"])
