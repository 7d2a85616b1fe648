"""What each of several processes takes and tells in a step; `--plugin measured_step:NAME`, in a folder that has
`benchmarks/collectives.py` and `benchmarks/heap.py`. Read `told`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from bigrun import hookimpl

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def put_into(folder: Path) -> None:
    """Where a run that is started there can import it."""
    for path in (Path(__file__), BENCHMARKS / "collectives.py", BENCHMARKS / "heap.py"):
        shutil.copy(path, folder)


def told(folder: Path, name: str, rank: int) -> Any:
    """What a process has measured."""
    return json.loads((folder / f"{name}-{rank}.json").read_text(encoding="utf-8"))


def tell(run: Any, name: str, value: Any) -> None:
    path = run.directory / f"{name}-{run.strategy.rank}.json"
    path.write_text(json.dumps(value), encoding="utf-8")


class UsualStep:
    """Measures the last step but one, which is not logged, from before its teacher's targets to behind its update."""

    mode: Any

    @hookimpl(tryfirst=True)
    def before_step(self, run: Any, step: int) -> None:
        if step == run.max_steps - 1:
            self.mode.__enter__()

    @hookimpl(trylast=True)
    def after_update(self, run: Any, step: int) -> None:
        if step == run.max_steps - 1:
            self.mode.__exit__(None, None, None)
            self.tell(run)

    def tell(self, run: Any) -> None:
        raise NotImplementedError


class Traffic(UsualStep):
    """Payloads of the step's collectives, by operation."""

    def __init__(self) -> None:
        from collectives import Collectives

        self.mode = Collectives()

    def tell(self, run: Any) -> None:
        tell(run, "traffic", self.mode.found)


class Peak(UsualStep):
    """Bytes on the heap in the step, of networks, optimizer and all that the step takes."""

    @hookimpl(tryfirst=True)
    def configure_runtime(self) -> None:
        from heap import HeapPeak

        self.mode = HeapPeak()

    def tell(self, run: Any) -> None:
        tell(run, "peak", self.mode.peak_bytes)
