"""The processes of a row of scale.py, ordered together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from scale_model import Kind, kind_of
from worker import Answer, Worker

if TYPE_CHECKING:
    from scale_model import Prediction

__all__ = ["Group", "Setup", "link_seconds"]

HERE = Path(__file__).resolve().parent
REPEATS = 20


@attrs.frozen
class Setup:
    """One row."""

    preset: str
    sets: Sequence[str]
    processes: int = 1
    alone: bool = False
    """Whether each of its processes is a run of its own."""


def environments(processes: int, *, alone: bool = False) -> list[dict[str, str]]:
    """As torchrun sets them, for each process."""
    threads = {"OMP_NUM_THREADS": "1"}
    if alone or processes == 1:
        return [{**threads, "WORLD_SIZE": "1"}] * processes
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {**threads, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**place, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


class Group:
    """The processes of one row; they are ready when this is made."""

    def __init__(self, name: str, setup: Setup, scratch: Path) -> None:
        self.setup = setup
        self.folder = scratch / "".join(c if c.isalnum() else "_" for c in name)
        self.folder.mkdir()
        self.pool = ThreadPoolExecutor(setup.processes)
        self.is_on_gpu = "hardware.device=cuda" in setup.sets
        places = environments(setup.processes, alone=setup.alone)
        self.workers = list(self.pool.map(self._start, range(setup.processes), places))

    def _start(self, number: int, environment: dict[str, str]) -> Worker:
        run = self.folder / (f"run-{number}" if self.setup.alone else "run")
        spec = {
            "preset": self.setup.preset,
            "sets": list(self.setup.sets),
            "run": str(run),
            "traffic": str(self.folder / f"traffic-{number if self.setup.alone else ''}"),
        }
        path = self.folder / f"{number}.json"
        path.write_text(json.dumps(spec), encoding="utf-8")
        return Worker(f"process {number}", [sys.executable, str(HERE / "scale_worker.py"), str(path)], environment)

    def order(self, steps: int, **more: bool) -> list[Answer]:
        """All processes take steps, at the same time."""
        return list(self.pool.map(lambda worker: worker.order(steps=steps, **more), self.workers))

    def payloads(self) -> dict[str, int]:
        """Bytes of a step by operation, as process 0 counted them; nothing where it is alone."""
        path = self.folder / "traffic--0.json"
        if self.setup.alone or self.setup.processes == 1:
            return {}
        return {name: sum(sizes) for name, sizes in json.loads(path.read_text(encoding="utf-8")).items()}

    def close(self) -> None:
        list(self.pool.map(Worker.close, self.workers))
        self.pool.shutdown()


def link_seconds(predictions: Iterable[Prediction], device: str, scratch: Path) -> dict[Kind, float]:
    """How long two processes take for one collective of each kind that the runs will have."""
    kinds = sorted({kind_of(each) for one in predictions for each in one.collectives})
    backend = "nccl" if device == "cuda" else "gloo"
    path = scratch / "links.json"
    path.write_text(json.dumps({"backend": backend, "repeats": REPEATS, "collectives": kinds}), encoding="utf-8")
    words = [sys.executable, str(HERE / "scale_links.py"), str(path)]
    started = [
        subprocess.Popen(words, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
        for environment in environments(2)
    ]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError("the speed of the links cannot be measured; see above")
    return dict(zip(kinds, json.loads(outputs[0]), strict=True))
