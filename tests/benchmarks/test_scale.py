"""`scale.py` puts two processes beside one, and what is planned beside what is counted."""

from __future__ import annotations

import pytest
from test_benchmarks import assert_header, run, tables


@pytest.mark.slow
def test_two_processes_stand_beside_one_and_send_what_is_planned() -> None:
    lines = run("scale.py", "--model", "tiny", "--rounds", "1", "--accumulate", "2", "--device", "cpu")
    assert_header(lines)
    speed, memory, traffic, links, efficiency = tables(lines)
    shared = ["two, ddp", "two, fsdp full", "two, fsdp grads"]
    assert list(speed) == ["one, half of the batch", "one, the whole batch", "two alone, half each", *shared]
    assert list(memory) == list(speed)
    assert {cells[-1] for cells in traffic.values()} == {"0"}
    assert len(traffic) == 7
    assert {name.split()[0] for name in links} == {"all-reduce", "all-gather", "reduce-scatter"}
    assert list(efficiency) == shared
