"""Processes of a fork server that tests share with the data loader, whose tests send it stop signals."""

from __future__ import annotations

import multiprocessing.context
from multiprocessing import resource_tracker

from bigrun.children import blocked

__all__ = ["start"]


def start(process: multiprocessing.context.ForkServerProcess) -> None:
    """Start a process; its server, if it begins here, is born deaf to stop signals as the loader's own is."""
    resource_tracker.ensure_running()  # up to Python 3.12 this unblocks the signals
    with blocked():
        process.start()
