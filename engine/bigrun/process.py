"""What a run changes in its process, and puts back: random generators, threads, signal handlers, the heap."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from bigrun.peers.peers import Peers

if TYPE_CHECKING:
    import torch

__all__ = [
    "Process",
    "kept_memory",
    "listening",
    "preserved_random_state",
    "preserved_threads",
    "release_memory",
    "seed_generators",
]

# Of a person, of a terminal that is closed, of a system that shuts down, and of schedulers that warn before the time is
# up (Slurm's --signal).
STOP_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# <malloc.h> of glibc: options of mallopt, and the values that glibc's own adjustment of them ends at. A process that
# has called mallopt is adjusted no more.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
TRIM_BYTES, MMAP_BYTES, MMAP_MAX = 64 * 2**20, 32 * 2**20, 65536


@attrs.define
class Process:
    """This process as its run sees it; it stays the same when the run goes back to an older checkpoint."""

    peers: Peers = attrs.field(factory=Peers)
    """The processes of the run."""
    began: float = attrs.field(factory=time.monotonic)
    """On the clock of `time.monotonic`, in seconds."""
    stop_signal: int | None = None
    """The signal that asked it to stop."""
    went_back: bool = False
    """Whether its run has gone on from an older checkpoint."""
    is_rehearsal: bool = False
    """Whether what it does is thrown away: a dry run, a trial of `bigrun tune`, a drill, a replay."""
    made: list[Path] = attrs.field(factory=list)
    """Directories that were made for its run, the run's own last; none once the run has begun."""
    failures: dict[str, Any] = attrs.field(factory=dict)
    """Observers that had failed by then, which stay switched off."""


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
def kept_memory(device: torch.device) -> Iterator[None]:
    """On a CPU, let glibc keep what a step frees for the next one.

    Else large tensors are unmapped and faulted in again, page by page: 60,000 to 300,000 faults in each step of
    ViT-S/16 (batch 16, bf16) instead of 3. They took 3 % of the CPU time where memory was plenty, and 13 % where four
    such processes shared a machine. Behind it the heap is as glibc makes it in a process that uses large blocks,
    whatever MALLOC_ variables of the environment said. With a GPU, where large host tensors are rare, and with other
    C libraries nothing happens.
    """
    libc = ctypes.CDLL(None)
    if device.type != "cpu" or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, MMAP_MAX)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
        libc.malloc_trim(0)


def release_memory() -> None:
    """Give back what nobody holds any more, a device's memory included."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def listening(process: Process) -> Iterator[None]:
    """Keep a stop signal as `process.stop_signal`, for the run to end after its step; one that comes again is kept
    again, so that nothing is cut short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request(number: int, _frame: Any) -> None:
        process.stop_signal = number

    # `nohup` has a process ignore what its terminal sends.
    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, request) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
