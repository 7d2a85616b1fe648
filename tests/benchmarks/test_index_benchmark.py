from __future__ import annotations

from pathlib import Path

import pytest
from test_benchmarks import assert_header, run, tables


@pytest.mark.slow
def test_index_has_a_row_for_each_phase(tmp_path: Path) -> None:
    lines = run("index.py", "--files", "1200", "--dir", str(tmp_path), "--workers", "0", "--pack")
    assert_header(lines)
    assert lines[5].startswith("files     16 x 16 x uint16 PNG")
    (phases,) = tables(lines)
    assert list(phases) == [
        "search without an index",
        "index",
        "index again",
        "start from the index",
        "pack",
        "start from the packed form",
    ]
    assert lines[-1].startswith("index: 0.")
    assert not list(tmp_path.iterdir())
