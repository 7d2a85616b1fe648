"""The benchmarks of the data path run and print what their README describes."""

from __future__ import annotations

import pytest
from test_benchmarks import assert_header, run, tables

pytestmark = pytest.mark.slow


def test_data_measures_decoding_and_ct_samples() -> None:
    lines = run("data.py", "--rounds", "1", "--series", "2", "--samples", "32")
    assert_header(lines)
    *kinds, ct = tables(lines)
    assert len(kinds) == 3
    assert all({"bigrun", "bigrun, packed"} <= set(rows) for rows in kinds)
    assert {"bigrun, PNG", "bigrun, packed", "predecessor's pipeline"} <= set(ct)
    assert ct["predecessor's pipeline"][2] == "1.00"


def test_data_wait_has_a_row_for_every_way() -> None:
    lines = run("data_wait.py", "--steps", "8", "--series", "2", "--workers", "1")
    assert_header(lines)
    (rows,) = tables(lines)
    assert list(rows) == ["PNG, workers 1", "packed, workers 1"]
