"""Bar 19: a stop signal that reaches only the processes that decode images. They ignore it: to stop is the main
process's decision, and it saves once."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil
import pytest
from training import ENDLESS, Training


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_bar_19_workers_ignore_a_stop_signal(tmp_path: Path, number: signal.Signals) -> None:
    training = Training(tmp_path, **{**ENDLESS, "data": {"workers": 2}})
    with training.begun(step=3) as process:
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 3  # two, and their server
        for worker in workers:
            worker.send_signal(number)
        reached = training.metrics()[-1]["step"]
        deadline = time.monotonic() + 60
        while training.metrics()[-1]["step"] < reached + 10:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert all(worker.is_running() for worker in workers)
        assert training.events("stop-requested") == []
        assert list(training.run.glob("checkpoints/*")) == []
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert len(training.events("checkpoint")) == 1
    assert len(training.events("stop-requested")) == 1
    (checkpoint,) = (training.run / "checkpoints").iterdir()
    assert checkpoint.name == f"step-{training.metrics()[-1]['step']:08d}"
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []
