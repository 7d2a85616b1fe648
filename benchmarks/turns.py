"""A process that takes training steps when it is told to, so that several can be measured in turn.

    parent: {"steps": 3}
    worker: {"seconds": 31.2, "cpu_seconds": 60.1, "peak_rss_bytes": 5100000000}

One JSON object per line, on the worker's standard input and output. A worker that waits uses no CPU; it ends with its
input. Imported in every library's environment: nothing but the standard library, and torch where it is asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

__all__ = ["Turns", "fresh_peak", "peak_rss_bytes"]


class Turns:
    """The worker's side. What else the process prints goes to standard error from here on."""

    def __init__(self) -> None:
        self.start_rss_bytes = peak_rss_bytes()
        """What the process needed before there was a network."""
        self.gpu = False
        """Whether the work is on torch's current GPU: it is waited for, and its memory is told too."""
        sys.stdout.flush()
        self._out: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def say(self, **facts: Any) -> None:
        """One line to the parent; the first says that the worker is ready."""
        self._out.write(json.dumps(facts) + "\n")
        self._out.flush()

    def __iter__(self) -> Iterator[int]:
        """One item per step that is to be taken, numbered from 1; a step lasts until the next item is asked for.

        An order may say `"peak": true`: what was used before does not count in `peak_rss_bytes`; or `"profile": true`:
        the answer has `torch_peak_bytes` too, and no honest times.
        """
        number = 0
        for line in sys.stdin:
            order = json.loads(line)
            facts: dict[str, Any] = {}
            with contextlib.ExitStack() as stack:
                if order.get("peak"):
                    fresh_peak()
                if order.get("profile"):
                    stack.enter_context(profiled(facts))
                if self.gpu:
                    stack.enter_context(gpu_memory(facts))
                wall, cpu = time.perf_counter(), time.process_time()
                for _ in range(order["steps"]):
                    number += 1
                    yield number
                if self.gpu:
                    synchronize()
                spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
            self.say(**spent, **facts, peak_rss_bytes=peak_rss_bytes())


def synchronize() -> None:
    import torch

    torch.cuda.synchronize()


@contextlib.contextmanager
def gpu_memory(facts: dict[str, Any]) -> Iterator[None]:
    """Add `peak_gpu_bytes`: the most that torch's allocator gave out meanwhile."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    yield
    facts["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()


@contextlib.contextmanager
def profiled(facts: dict[str, Any]) -> Iterator[None]:
    """Add `torch_peak_bytes`: tensors alive at the start, and the highest sum of what the CPU allocator of torch gives
    and takes back from there on, as its profiler counts it."""
    import gc

    import torch

    gc.collect()
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in gc.get_objects() if tensor_here(t)}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        yield
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = highest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        highest = max(highest, alive)
    facts["torch_peak_bytes"] = sum(storages.values()) + highest


def tensor_here(thing: Any) -> bool:
    import torch

    return type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.device.type == "cpu" and not thing.is_sparse


def fresh_peak() -> None:
    """Let the peak of this process's memory begin at what it has now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_rss_bytes() -> int:
    """Largest resident memory since `fresh_peak`, or since the process began (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM: this needs Linux")
