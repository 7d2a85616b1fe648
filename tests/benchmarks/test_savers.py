"""`savers.py` puts a run of each memory saver beside one of none. What it measures is never asserted, but for what is
equal by construction."""

from __future__ import annotations

import importlib.util

import pytest
from test_benchmarks import assert_header, run, tables


@pytest.mark.slow
def test_savers_has_a_row_for_each_and_exact_ones_have_the_same_loss() -> None:
    lines = run("savers.py", "--model", "tiny", "--rounds", "2")
    assert_header(lines)
    (rows,) = tables(lines)
    assert ("optimizer states 8bit" in rows) == (importlib.util.find_spec("torchao") is not None)
    assert {"optimizer states bf16", "Gram teacher fp32"} <= set(rows)
    exact = ["none, again", "activation offload", "activation offload + full", "teacher offload", "Gram teacher bf16"]
    assert [rows[name][-1] for name in exact] == ["0"] * len(exact)
    assert rows["optimizer states bf16"][-1] != "0"
