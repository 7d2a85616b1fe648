"""What the console plugin's progress bar costs on a terminal.

rich redraws it ten times a second in a thread of its own. That belongs to no step, so it is measured alone.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from stepping import Seconds

from bigrun_console.plugin import Console

__all__ = ["bar_cost"]


def bar_cost(seconds: float) -> float:
    """CPU seconds per second of a bar that waits for the next step."""
    run: Any = SimpleNamespace(is_main=True, max_steps=1000, step=0)
    with terminal() as stream:
        console = Console(stream)
        console.on_start(run)
        start = Seconds.now()
        time.sleep(seconds)
        spent = Seconds.now().since(start)
        console.teardown(run)
    return spent.cpu / spent.wall


@contextlib.contextmanager
def terminal() -> Iterator[Any]:
    """A pseudo-terminal that something reads."""
    reader, writer = os.openpty()

    def drain() -> None:
        with contextlib.suppress(OSError):  # EIO: the writing end is closed
            while os.read(reader, 65536):
                pass
        os.close(reader)

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        with os.fdopen(writer, "w") as stream:
            yield stream
    finally:
        thread.join()
