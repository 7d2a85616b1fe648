"""What a run changes in its process, and puts back: random generators, threads, signal handlers."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from bigrun.run import Run

__all__ = ["listening", "preserved_random_state", "preserved_threads", "seed_generators"]


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the global generators of Python, numpy and torch, the device's included; `seed` is in [0, 2**63)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed formats the call stack for every kind of device that is not in use: 0.4 ms a call.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Leave the process's global random generators as they were found."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def preserved_threads() -> Iterator[None]:
    """Leave torch's number of CPU threads, which `hardware.threads` sets, as it was found."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def listening(run: Run) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into a request to stop after the step; handlers only set a flag."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request(number: int, _frame: Any) -> None:
        run.stop_signal = number

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
