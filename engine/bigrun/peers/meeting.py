"""How the processes of a run find each other."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from bigrun.peers.errors import PeerLostError, first_line
from bigrun.peers.place import Place
from bigrun.process_end import end_without_finalisation

__all__ = ["meet", "slack"]

START = timedelta(seconds=600)
"""So long a process waits for the others to begin; one that failed before that never comes."""
SAID_SECONDS = 20.0
"""When a process that waits says so: the others import torch, and may be on slower disks."""


def meet(place: Place, *, uses_gpu: bool, patience: timedelta) -> Any:
    """Wait for the others; returns the store by which they were found.

    Args:
        patience: so long one may wait for another from here on, and some time more (`slack`).

    Raises:
        PeerLostError: they have not begun in time.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    end_without_finalisation()
    if uses_gpu:
        torch.cuda.set_device(place.local_rank)
    begin = min(patience, START)
    try:
        with mortal(), saying(place, begin):
            store, _, _ = next(rendezvous("env://", place.rank, place.size, timeout=begin))
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if uses_gpu else "gloo",
                store=store,
                rank=place.rank,
                world_size=place.size,
                timeout=slack(patience),
            )
            dist.barrier()
    except RuntimeError as error:
        raise PeerLostError(
            f"process {place.rank} of {place.size}: the others have not begun within {begin.total_seconds():g} s, or "
            f"one has ended meanwhile: see what it says ({first_line(error)})"
        ) from error
    return store


def slack(patience: timedelta) -> timedelta:
    """Whoever watches the run knows which process lets the others wait, and comes first; torch does not."""
    return patience * 1.1 + timedelta(seconds=60)


@contextlib.contextmanager
def saying(place: Place, patience: timedelta) -> Iterator[None]:
    """Let who waits in native code say for whom: a wrong address looks like a slow start."""
    timer = threading.Timer(min(SAID_SECONDS, patience.total_seconds() / 2), say_waiting, (place, patience))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def say_waiting(place: Place, patience: timedelta) -> None:
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    line = (
        f"process {place.rank} of {place.size} waits for the others at {where} (MASTER_ADDR, MASTER_PORT), at most "
        f"{patience.total_seconds():g} s from its start"
    )
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def mortal() -> Iterator[None]:
    """Stop signals end the process at once, as they do any other: there is nothing to save yet, and whoever waits in
    native code for a process that never comes hears no handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
