"""What each of several processes takes and tells in a step; `--plugin measured_step:NAME`. Read `told`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from bigrun import hookimpl

OPERATIONS = {
    "allreduce_": "all-reduce",
    "_allgather_base_": "all-gather",
    "_reduce_scatter_base_": "reduce-scatter",
}


def told(folder: Path, name: str, rank: int) -> Any:
    """What a process has measured."""
    return json.loads((folder / f"{name}-{rank}.json").read_text(encoding="utf-8"))


class Collectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The largest tensor of every collective of floats: bytes by operation, one after the other."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            tensors = [found for found in tree_iter(args) if hasattr(found, "nbytes")]
            if tensors and all(tensor.is_floating_point() for tensor in tensors):
                operation = OPERATIONS[func._schema.name.partition("::")[2]]
                self.found.setdefault(operation, []).append(max(tensor.nbytes for tensor in tensors))
        return func(*args, **(kwargs or {}))


class Traffic:
    """Of the second step."""

    def __init__(self) -> None:
        self.mode = Collectives()

    @hookimpl(tryfirst=True)
    def before_step(self, step: int) -> None:
        if step == 2:
            self.mode.__enter__()

    @hookimpl(trylast=True)
    def after_update(self, run: Any, step: int) -> None:
        if step == 2:
            self.mode.__exit__(None, None, None)
            path = run.directory / f"traffic-{run.strategy.rank}.json"
            path.write_text(json.dumps(self.mode.found), encoding="utf-8")


class Peak:
    """Of torch's allocator, from the beginning to the end of the last step."""

    def __init__(self) -> None:
        self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    @hookimpl(tryfirst=True)
    def configure_runtime(self) -> None:
        self.profiler.__enter__()

    @hookimpl(trylast=True)
    def after_step(self, run: Any, step: int) -> None:
        if step != run.max_steps:
            return
        self.profiler.__exit__(None, None, None)
        now = peak = 0
        for event in self.profiler.profiler.kineto_results.events():
            if event.name() == "[memory]":
                now += event.nbytes()
                peak = max(peak, now)
        path = run.directory / f"peak-{run.strategy.rank}.json"
        path.write_text(json.dumps(peak), encoding="utf-8")
