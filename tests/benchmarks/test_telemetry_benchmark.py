"""`telemetry.py` puts runs with and without telemetry side by side. What it measures is never asserted."""

from __future__ import annotations

import pytest
from test_benchmarks import assert_header, run, tables


@pytest.mark.slow
def test_telemetry_has_a_row_for_each_way_and_each_part() -> None:
    lines = run("telemetry.py", "--rounds", "2", "--steps", "3", "--samples", "20")
    assert_header(lines)
    steps, parts = tables(lines)
    assert list(steps) == ["without", "without, again", "every 10 s", "every 0.1 s"]
    assert steps["without"][1::2] == ["1.0000 (1.0000 to 1.0000)"] * 2
    assert list(parts) == [
        "read the host",
        "progress of the run",
        "history and flags",
        "row to the file",
        "a whole sample",
        "row without a GPU",
        "row with a GPU",
    ]
    assert "15 days: 129,600 rows" in parts["row with a GPU"][0]
