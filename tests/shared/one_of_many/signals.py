"""Signals: one process is killed, or told to stop."""

from __future__ import annotations

import os
import random
import signal
import threading
from typing import Any

from bigrun import hookimpl
from one_of_many.who import is_named, is_other


class Dies:
    """Killed in step 4; `DIES` says who."""

    observer = True

    @hookimpl
    def after_backward(self, run: Any, step: int) -> None:
        if step == 4 and is_named(run, "DIES"):
            os.kill(os.getpid(), signal.SIGKILL)


class DiesAtRandom:
    """Killed at a random moment within some steps, each of which is saved; `DIES` says who."""

    observer = True

    @hookimpl
    def before_step(self, run: Any, step: int) -> None:
        if step == run.step + 1 and not hasattr(self, "_timer") and is_named(run, "DIES"):
            delay = random.SystemRandom().uniform(0.1, 1.5)
            self._timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
            self._timer.daemon = True
            self._timer.start()


class Stops:
    observer = True

    @hookimpl
    def after_update(self, run: Any, step: int) -> None:
        if step == 4 and is_other(run):
            os.kill(os.getpid(), signal.SIGTERM)


class StopsAgain:
    """Signals to both, again and again, also in the save that follows."""

    @hookimpl
    def after_update(self, run: Any, step: int) -> None:
        if step == 4:
            stop_twice()

    def state_dict(self) -> dict[str, int]:
        stop_twice()
        return {}


def stop_twice() -> None:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
