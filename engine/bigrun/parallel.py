"""Work on many pieces in several processes, in order and in bounded memory."""

from __future__ import annotations

import functools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import TypeVar

from bigrun.children import begin_child, blocked, fork_server
from bigrun.devices.limits import usable_cores
from bigrun.errors import BigrunError
from bigrun.shortage import shortages_told

__all__ = ["FEWER", "GOES_ON", "default_workers", "in_order"]

Piece = TypeVar("Piece")
Result = TypeVar("Result")

SHARED: list[object] = []
"""Of one of the processes: what was given to it when it began."""
FEW = 400
"""So many files are done before the processes have begun, which import torch."""
FEWER = "--workers 1 needs the least memory"
GOES_ON = f"the same command goes on where this one stopped, {FEWER}"


def default_workers(files: int) -> int:
    """One process for each core that this one can keep busy; none for few files."""
    return 0 if files <= FEW else usable_cores()


def in_order(
    work: Callable[..., Result],
    pieces: Iterable[Piece],
    workers: int,
    shared: object = None,
    *,
    advice: str = FEWER,
) -> Iterator[Result]:
    """`work(piece)` for each piece, in the order of the pieces, computed by `workers` processes; 0: by this one.

    At most two pieces per process are under way, so neither pieces nor results pile up. The processes do not hear
    Ctrl-C, and end with this one, however it ends.

    Args:
        work: a function of a module (it is pickled by its name); it raises what its caller is to get.
        shared: what all pieces need, given to each process once: `work(shared, piece)`.
        advice: what to do when a process has died, or has no memory or no open files left.

    Raises:
        BigrunError: that has happened.
    """
    with shortages_told(advice):
        if workers == 0:
            yield from map(work if shared is None else functools.partial(work, shared), pieces)
        else:
            yield from in_processes(work, pieces, workers, shared, advice)


def in_processes(
    work: Callable[..., Result], pieces: Iterable[Piece], workers: int, shared: object, advice: str
) -> Iterator[Result]:
    theirs, ours = multiprocessing.Pipe(duplex=False)
    begin = functools.partial(begin_process, theirs, shared)
    call = work if shared is None else functools.partial(with_shared, work)
    context = fork_server(work.__module__)
    with ours, theirs, ProcessPoolExecutor(workers, mp_context=context, initializer=begin) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for piece in pieces:
                with blocked():
                    waiting.append(pool.submit(call, piece))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise BigrunError(f"a process that reads files died, for want of memory perhaps; {advice}") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def with_shared(work: Callable[..., Result], piece: object) -> Result:
    return work(*SHARED, piece)


def begin_process(parent: Connection, shared: object) -> None:
    begin_child(parent)
    SHARED.append(shared)
