"""`step.py` measures steps in turn and memory apart, and says so when a worker dies."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import turns
from test_benchmarks import assert_header, run, tables
from worker import Worker, WorkerError

MIB = 2**20
PEER = os.environ.get("BIGRUN_PEER_PYTHON")

SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from turns import Turns
turns = Turns()
print("this is not an answer")
turns.say(kind="test")
import torch
before = torch.zeros(2 * 2**20, dtype=torch.float32)  # 8 MiB
for step in turns:
    {body}
"""


def start(body: str) -> Worker:
    folder = str(Path(turns.__file__).parent)
    return Worker("test", [sys.executable, "-c", SCRIPT.format(body=body), folder], {"OMP_NUM_THREADS": "1"})


@pytest.fixture
def busy() -> Iterator[Worker]:
    """Takes 16 MiB in every step, 4 MiB at a time, and gives them back."""
    worker = start("parts = [torch.ones(2**20) for _ in range(4)]; time.sleep(0.02); del parts")
    yield worker
    worker.close()


def test_an_order_takes_its_steps_and_tells_their_time(busy: Worker) -> None:
    assert busy.ready == {"kind": "test"}
    first, second = busy.order(steps=1), busy.order(steps=5)
    assert first.seconds > 0.02
    assert second.seconds > 0.1
    assert second.cpu_seconds < second.seconds
    assert second.torch_peak_bytes is None


@pytest.mark.slow
def test_the_peak_of_torchs_allocator_is_what_was_alive_at_once(busy: Worker) -> None:
    peak = busy.order(steps=2, profile=True).torch_peak_bytes
    assert peak is not None
    assert 24 * MIB <= peak < 25 * MIB


def test_a_fresh_peak_forgets_what_was_before() -> None:
    worker = start("taken = torch.ones(64 * 2**20 if step == 1 else 2**20); del taken")
    try:
        high, later = worker.order(steps=1), worker.order(steps=1)
        assert later.peak_rss_bytes >= high.peak_rss_bytes
        fresh = worker.order(steps=1, peak=True)
        assert fresh.peak_rss_bytes < high.peak_rss_bytes - 200 * MIB
    finally:
        worker.close()


def test_a_worker_that_dies_is_named_with_what_it_said() -> None:
    worker = start("raise MemoryError('no more')")
    with pytest.raises(WorkerError, match=r"test ended with exit code 1:[\s\S]*MemoryError: no more"):
        worker.order(steps=1)
    worker.close()


def test_a_worker_that_waits_ends_with_its_input(busy: Worker) -> None:
    busy.order(steps=1)
    process = busy._process
    busy.close()
    assert process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


@pytest.mark.slow
def test_bigrun_alone_when_there_is_no_peer() -> None:
    words = ["--model", "tiny", "--rounds", "1", "--warmup-rounds", "1", "--prototypes", "64", "--threads", "1"]
    lines = run("step.py", *words, "--no-compile")
    assert_header(lines)
    assert lines[5] == "peer      lightly-train: not installed (--peer-python)"
    assert "64 prototypes" in lines
    (rows,) = tables(lines)
    assert list(rows) == ["bigrun"]
    speed, *_ = rows["bigrun"]
    assert float(speed) > 0


@pytest.mark.skipif(PEER is None, reason="BIGRUN_PEER_PYTHON names no Python that has lightly-train")
def test_the_peer_takes_steps_of_the_same_shapes() -> None:
    words = ["--model", "tiny", "--rounds", "1", "--warmup-rounds", "1", "--prototypes", "64", "--threads", "1"]
    lines = run("step.py", *words, "--no-compile", "--peer-python", str(PEER))
    assert lines[5].startswith("peer      lightly-train ")
    (rows,) = tables(lines)
    assert list(rows) == ["bigrun", "lightly-train", "lightly-train, our objective"]
    assert rows["bigrun"][-1] == ">= 1.5, <= 1"
    assert rows["lightly-train, our objective"][1:3] == ["1", "1"]
