"""What happens to one process of several; `--plugin one_of_many:NAME`."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from bigrun import hookimpl
from bigrun.anomaly import Action, Anomaly


def is_other(run: Any) -> bool:
    return bool(run.strategy.rank == run.strategy.world_size - 1 > 0)


class Infinite:
    @hookimpl
    def loss_terms(self, run: Any, step: int, outputs: Any) -> dict[str, Tensor]:
        zero = 0 * outputs.global_features.cls.sum()
        return {"infinite": zero + (float("inf") if step == 2 and is_other(run) else 0)}


class Fails:
    observer = True

    @hookimpl
    def after_backward(self, run: Any, step: int) -> None:
        if step == 3 and is_other(run):
            raise ValueError("on one process")


class Stops:
    observer = True

    @hookimpl
    def after_update(self, run: Any, step: int) -> None:
        if step == 4 and is_other(run):
            os.kill(os.getpid(), signal.SIGTERM)


class Empty:
    """The loader of one process ends after three steps."""

    @hookimpl(wrapper=True)
    def build_loader(self, run: Any) -> Any:
        loader = yield
        return itertools.islice(loader, 3 * run.accumulate) if is_other(run) else loader


class Halts:
    @hookimpl
    def after_step(self, run: Any, step: int) -> None:
        if step == 3 and is_other(run):
            run.report_anomaly(Anomaly("odd", step, "something is odd"))

    @hookimpl
    def on_anomaly(self) -> Action:
        return Action.HALT


class Dies:
    observer = True

    @hookimpl
    def after_backward(self, run: Any, step: int) -> None:
        if step == 4 and str(run.strategy.rank) == os.environ["DIES"]:
            os.kill(os.getpid(), signal.SIGKILL)


class EndsLate:
    """The main process has something to do when the others have ended."""

    @hookimpl
    def on_finish(self, run: Any) -> None:
        if run.is_main:
            time.sleep(float(os.environ["LATE_SECONDS"]))
            Path("late").touch()


class Waits:
    """Steps are slow until somebody says `go`."""

    observer = True

    @hookimpl
    def before_step(self) -> None:
        if not Path("go").exists():
            time.sleep(0.2)
