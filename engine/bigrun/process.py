"""What a run changes in its process, and puts back: random generators, threads, signal handlers."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bigrun.run import Run

__all__ = ["listening", "preserved_random_state", "preserved_threads"]


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
