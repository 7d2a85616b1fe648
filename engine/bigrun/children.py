"""Processes that work for this one: started from a clean server, deaf to stop signals, and ended with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

from bigrun.process import STOP_SIGNALS

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext

__all__ = ["begin_child", "blocked", "fork_server"]

PRELOADED = ("torch", "bigrun.data.folder", "bigrun.data.worker")
"""A process has one server: whoever starts it first, what decodes for a run is forked from it."""


def fork_server(*modules: str) -> ForkServerContext:
    """Children are forked from a clean server that has imported torch, not from this process; start them in `blocked`.

    A fork of a process with threads and an initialised GPU may deadlock, and Python 3.12 warns of it.

    Args:
        modules: what the server imports besides, if this is its first use.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, *modules])
    return context


@contextmanager
def blocked() -> Iterator[None]:
    """Start children in it, so that neither they nor their server die of a stop signal before they ignore it."""
    resource_tracker.ensure_running()  # up to Python 3.12 this unblocks the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_child(alive: Connection) -> None:
    """What a child does first. A stop is its parent's decision; and none outlives that, however it ends, for its own
    parent is the server, and whoever waits for work waits for ever.

    Args:
        alive: whose other end the parent keeps.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(alive,), daemon=True).start()


def end_with(alive: Connection) -> None:
    """Nothing is ever sent: reading ends when the other end is closed, by whatever ended its process."""
    with suppress(EOFError, OSError):
        alive.recv_bytes()
    os._exit(1)
